// The desktop page: noVNC in the whole window, and what to say when the picture stops.
//
// <html data-bulle="…"> says where it stands: loading, connected, pixels (the first picture was drawn), reconnecting,
// replaced, signed-out, removed, ended.

import RFB from "../novnc/core/rfb.js";
import { Keys } from "./keys.js";
import { closedWith, signedOutSays, told as toldBy } from "./over.js";
import { watermark } from "./watermark.js";
import { language, words } from "./words.js";

const told = JSON.parse(document.body.dataset.session);
const element = (id) => document.getElementById(id);
const screen = element("screen");

const MAX_PASTE = 1 << 20;
const RETRY = [300, 700, 1500, 3000, 5000];
const LOOK_AGAIN = 4000;
const WARN_BEFORE = 10 * 60_000;

let rfb = null;
let socket = null;
let attempts = 0;

// noVNC has no event for "a picture was drawn"; the bench, the tests and the veil over the page need one.
class Desktop extends RFB {
    _framebufferUpdate() {
        const whole = super._framebufferUpdate();
        if (whole && !this.seen) {
            this.seen = true;
            this._display.flush().then(() => this.dispatchEvent(new CustomEvent("pixels")));
        }
        return whole;
    }
}

function stand(state) {
    document.documentElement.dataset.bulle = state;
}

function veil(say, hint, { busy = false, solid = false, again = null, home = false } = {}) {
    element("say").textContent = say;
    element("hint").textContent = hint;
    element("spinner").hidden = !busy;
    element("veil").className = solid ? "solid" : "";
    element("again").hidden = !again;
    element("again").textContent = again?.say ?? "";
    element("again").onclick = again?.act ?? null;
    element("home").hidden = !home;
}

function unveil() {
    element("veil").className = "gone";
    element("ghost").hidden = true;
}

// Keep the last picture, dimmed, while the connection is being made again: nothing jumps.
function keepPicture() {
    const canvas = screen.querySelector("canvas");
    if (canvas?.width && rfb?.seen) {
        const ghost = element("ghost");
        ghost.width = canvas.width;
        ghost.height = canvas.height;
        ghost.getContext("2d").drawImage(canvas, 0, 0);
        ghost.hidden = false;
    }
}

// Over, or no longer this person's: the picture must not stay on the screen either.
function clearPicture() {
    const ghost = element("ghost");
    ghost.width = ghost.height = 1;
    ghost.hidden = true;
    screen.replaceChildren();
}

function connect() {
    const address = new URL(`${told.base}rfb`, window.location.href);
    address.protocol = address.protocol.replace("http", "ws");
    const mine = new WebSocket(address);
    socket = mine;
    mine.addEventListener("close", (event) => mine === socket && closed(event.code));
    rfb = new Desktop(screen, mine, { shared: true });
    rfb.background = "#0e2236";
    rfb.resizeSession = true;
    rfb.scaleViewport = true;
    rfb.focusOnClick = false;
    rfb.qualityLevel = 8;
    rfb.compressionLevel = 1;
    rfb.addEventListener("connect", () => {
        attempts = 0;
        stand("connected");
    });
    rfb.addEventListener("pixels", () => {
        stand("pixels");
        unveil();
        keys.focus();
    });
}

function closed(code) {
    socket = null;
    const after = { ended, "signed-out": signedOut, removed, replaced, unchecked, lost };
    after[closedWith(code)]();
}

function lost() {
    keepPicture();
    reconnect();
}

function replaced() {
    stand("replaced");
    clearPicture();
    veil(words.replaced, words.replacedHint, { solid: true, home: true, again: { say: words.takeBack, act: () => reconnect() } });
}

// The hub did not say for long whether this is still the person: no picture until it does.
function unchecked() {
    clearPicture();
    attempts = 0;
    reconnect({ say: words.unchecked, hint: words.uncheckedHint });
}

function removed() {
    stand("removed");
    clearPicture();
    veil(words.removed, words.removedHint, { solid: true, home: true });
}

function ended() {
    stand("ended");
    clearPicture();
    veil(words.ended, words.endedHint, { solid: true, home: true });
}

async function signedOut() {
    stand("signed-out");
    clearPicture();
    const again = { say: words.signIn, act: () => window.location.reload() };
    const found = [];
    for (let says = "unknown"; says !== "ended"; says = signedOutSays(found)) {
        veil(words.signedOut, says === "runs" ? words.signedOutRuns : words.signedOutHint, { solid: true, again });
        await new Promise((resume) => window.setTimeout(resume, LOOK_AGAIN));
        found.push(await ask());
        found.splice(0, found.length - 8);
    }
    ended();
}

async function reconnect(instead = null) {
    stand("reconnecting");
    const hint = attempts > 6 ? words.stillTrying : words.reconnectingHint;
    veil(instead?.say ?? words.reconnecting, instead?.hint ?? hint, { busy: true, solid: instead !== null });
    const wait = RETRY[Math.min(attempts, RETRY.length - 1)];
    attempts += 1;
    await new Promise((resume) => window.setTimeout(resume, wait));
    const found = await ask();
    ({ running: connect, ended, "signed-out": signedOut, silent: () => reconnect(instead) })[found]();
}

// Is the session there?
async function ask() {
    try {
        const answer = await fetch(`${told.base}session`, {
            cache: "no-store", redirect: "manual", signal: AbortSignal.timeout(8000),
        });
        const running = answer.ok && (await answer.json()).running;
        return toldBy({ status: answer.status, type: answer.type, running });
    } catch {
        return "silent";
    }
}

// --- paste in: UTF-8 in a cut-text message, which the bridge takes apart; there is no way back
function paste(text) {
    const data = new TextEncoder().encode(text);
    if (data.length > MAX_PASTE) {
        notice(words.tooLong);
        return false;
    }
    if (socket?.readyState === WebSocket.OPEN) {
        const message = new Uint8Array(8 + data.length);
        message[0] = 6;
        new DataView(message.buffer).setUint32(4, data.length);
        message.set(data, 8);
        socket.send(message);
    }
    return true;
}

let noticeTimer;
function notice(text, time = 6000) {
    element("notice").textContent = text;
    element("notice").hidden = false;
    window.clearTimeout(noticeTimer);
    noticeTimer = window.setTimeout(() => { element("notice").hidden = true; }, time);
}

function warnBeforeEnd() {
    const end = new Date(told.endsAt);
    const left = end - Date.now() - WARN_BEFORE;
    if (left < 2 ** 31 - 1) {
        const time = end.toLocaleTimeString(language, { timeStyle: "short" });
        window.setTimeout(() => notice(words.endsAt(time), 60_000), Math.max(left, 0));
    }
}

// --- the bar
function furnish() {
    element("project").textContent = told.project;
    element("person").textContent = told.person;
    element("leave").textContent = words.leave;
    element("leave").href = told.home;
    element("home").textContent = words.home;
    element("home").href = told.home;
    const full = element("full");
    const name = () => { full.textContent = document.fullscreenElement ? words.window : words.full; };
    name();
    full.addEventListener("click", () => {
        if (document.fullscreenElement) {
            document.exitFullscreen();
        } else {
            document.documentElement.requestFullscreen({ navigationUI: "hide" });
        }
        keys.focus();
    });
    document.addEventListener("fullscreenchange", () => {
        name();
        // In full screen, Escape and Ctrl+W go to the desktop too; holding Escape leaves.
        if (document.fullscreenElement) {
            navigator.keyboard?.lock?.().catch(() => {});
        }
    });
    screen.addEventListener("pointerdown", () => window.setTimeout(() => keys.focus()), true);
    document.addEventListener("dragover", (event) => event.preventDefault());
    document.addEventListener("drop", (event) => event.preventDefault());
}

const keys = new Keys(element("keys"), {
    target: () => screen.querySelector("canvas"),
    send: (keysym) => rfb?.sendKey(keysym, null),
    hold: (keysym, code, down) => rfb?.sendKey(keysym, code, down),
    paste: told.pasteIn ? paste : null,
});
// The connection first: all else is drawn while it is being made.
veil(words.opening, "", { busy: true, solid: true });
connect();
furnish();
watermark(element("watermark"), { person: told.person, project: told.project, language });
warnBeforeEnd();
