// What a lost connection means, and what may be said of it: nothing here knows a page.

// close codes of the bridge (relay.py)
const CODES = { 4401: "signed-out", 4403: "removed", 4409: "replaced", 4410: "ended", 4503: "unchecked" };

/** Where the page stands after the bridge closed with a code; "lost" for any other. */
export function closedWith(code) {
    return CODES[code] ?? "lost";
}

/** What the session's address told: "running", "ended", "signed-out", or "silent" where it told nothing. */
export function told({ status, type, running }) {
    if (status === 200) {
        return running ? "running" : "ended";
    }
    // Once it is over its address leads to the hub, which redirects or says that nothing runs there.
    if (type === "opaqueredirect" || status === 404 || status === 424) {
        return "ended";
    }
    return status === 401 || status === 403 ? "signed-out" : "silent";
}

/**
 * What is said to somebody who is signed out, by what the session's address told since: who was removed is signed out a
 * moment before their session ends, so that it goes on is said only where it was seen to for a while.
 */
export function signedOutSays(found) {
    if (found.includes("ended")) {
        return "ended";
    }
    return found.filter((one) => one === "signed-out").length >= 4 ? "runs" : "unknown";
}
