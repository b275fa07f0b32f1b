// Who, in which project, when: faint, over the whole picture.
//
// What it is good for: a photograph of the screen names the person who sat before it. What it is not: a person can take it
// away in their own browser, because it is drawn there. It deters; it does not prevent.

const GAP_X = 90;
const STEP_Y = 210;

export function watermark(canvas, { person, project, language }) {
    const draw = () => {
        const scale = window.devicePixelRatio || 1;
        canvas.width = Math.ceil(canvas.clientWidth * scale);
        canvas.height = Math.ceil(canvas.clientHeight * scale);
        const time = new Date().toLocaleString(language, { dateStyle: "medium", timeStyle: "short" });
        const line = `${person} · ${project} · ${time}`;
        const pen = canvas.getContext("2d");
        pen.scale(scale, scale);
        pen.rotate(-Math.PI / 9);
        pen.font = "15px system-ui, sans-serif";
        const step = pen.measureText(line).width + GAP_X;
        const reach = canvas.clientWidth + canvas.clientHeight;
        for (let y = 0, row = 0; y < reach; y += STEP_Y, row += 1) {
            for (let x = -reach; x < reach; x += step) {
                const left = x + (row % 2) * (step / 2);
                // light and dark, so that it shows on either
                pen.fillStyle = "rgb(0 0 0 / 7%)";
                pen.fillText(line, left + 1, y + 1);
                pen.fillStyle = "rgb(255 255 255 / 9%)";
                pen.fillText(line, left, y);
            }
        }
    };
    draw();
    window.addEventListener("resize", draw);
    window.setInterval(draw, 60_000);
}
