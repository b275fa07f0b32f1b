// The keyboard: what is engraved on the keys arrives, whatever the layout.
//
// noVNC turns key events into keysyms, and the display turns keysyms into keys of its own. Left to itself noVNC takes every
// event from the browser, so that dead keys (^ and ¨ on a French keyboard) and input methods never compose anything.
// Therefore an invisible text field has the focus: what composes is left to it and sent on as the text that comes out; every
// other event is handed to noVNC's canvas unchanged. The field also receives what is pasted, without asking for the
// clipboard: nothing is read unless the person presses the keys for it.

import keysyms from "../novnc/core/input/keysymdef.js";

const V = 0x76;
const INSERT = 0xff63;
const CONTROL = 0xffe3;
const ALT = 0xffe9;
const PASTE_WAIT = 80;

const MODIFIERS = ["AltGraph", "CapsLock", "Fn", "FnLock", "Hyper", "NumLock", "ScrollLock", "Super", "Symbol", "SymbolLock"];

export class Keys {
    // target() is noVNC's canvas, send(keysym) presses and releases a key, hold(keysym, code, down) does one of both,
    // and paste(text), if pasting is allowed, offers text to the desktop and says whether it did.
    constructor(field, { target, send, hold, paste }) {
        Object.assign(this, { field, target, send, hold, paste });
        this.waiting = null;
        field.addEventListener("keydown", (event) => this.down(event));
        field.addEventListener("keyup", (event) => this.forward(event));
        field.addEventListener("input", (event) => event.isComposing || this.compose());
        field.addEventListener("compositionend", () => this.compose());
        field.addEventListener("paste", (event) => this.pasted(event));
        for (const kind of ["copy", "cut", "drop"]) {
            field.addEventListener(kind, (event) => event.preventDefault());
        }
        window.addEventListener("focus", () => this.focus());
    }

    focus() {
        this.field.focus({ preventScroll: true });
    }

    down(event) {
        if (event.isComposing || event.keyCode === 229 || event.key === "Dead" || event.key === "Process") {
            return;
        }
        if (this.paste && isPaste(event)) {
            this.waiting = { key: event.key, meta: event.metaKey };
            // Nothing to paste, or not text: the keys still do what they do.
            this.timer = window.setTimeout(() => this.pressPaste(), PASTE_WAIT);
            return;
        }
        const characters = [...event.key];
        if (characters.length === 2 && !/[A-Za-z0-9]/.test(event.key)) {
            // Two accents that made no letter ("^^", "¨^").
            event.preventDefault();
            this.text(event.key);
            return;
        }
        this.forward(event);
    }

    forward(event) {
        event.preventDefault();
        const copy = {};
        for (const name of ["key", "code", "location", "repeat", "ctrlKey", "shiftKey", "altKey", "metaKey"]) {
            copy[name] = event[name];
        }
        for (const name of MODIFIERS) {
            copy[`modifier${name}`] = event.getModifierState(name);
        }
        this.target()?.dispatchEvent(new KeyboardEvent(event.type, { ...copy, cancelable: true }));
    }

    compose() {
        const text = this.field.value;
        this.field.value = "";
        this.text(text);
    }

    text(text) {
        for (const character of text) {
            this.send(character === "\n" ? 0xff0d : keysyms.lookup(character.codePointAt(0)));
        }
    }

    pasted(event) {
        event.preventDefault();
        const text = event.clipboardData?.getData("text/plain") ?? "";
        if (this.paste && text && !this.paste(text)) {
            window.clearTimeout(this.timer);
            this.waiting = null;
            return;
        }
        this.pressPaste();
    }

    pressPaste() {
        window.clearTimeout(this.timer);
        const pressed = this.waiting;
        this.waiting = null;
        if (!pressed) {
            return;
        }
        if (pressed.meta) {
            // A Mac's ⌘V is Ctrl+V there; noVNC holds ⌘ down as Alt.
            this.hold(ALT, "MetaLeft", false);
            this.hold(CONTROL, null, true);
            this.send(V);
            this.hold(CONTROL, null, false);
        } else {
            this.send(pressed.key === "Insert" ? INSERT : V);
        }
    }
}

function isPaste(event) {
    const letter = event.key.toLowerCase() === "v" && (event.ctrlKey || event.metaKey) && !event.altKey;
    return letter || (event.key === "Insert" && event.shiftKey && !event.ctrlKey && !event.altKey);
}
