// Accounts of the demo's provider: passwords and one-time codes, checked in constant time.
import { createHash, createHmac, timingSafeEqual } from 'node:crypto';
import { readFileSync } from 'node:fs';

const BASE32 = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567';
const STEP_SECONDS = 30;

function same(a, b) {
  const digest = (text) => createHash('sha256').update(String(text)).digest();
  return timingSafeEqual(digest(a), digest(b));
}

function decodeBase32(text) {
  let bits = 0;
  let value = 0;
  const bytes = [];
  for (const letter of text.replace(/=+$/, '').toUpperCase()) {
    const index = BASE32.indexOf(letter);
    if (index < 0) throw new Error('a one-time code secret must be base32');
    value = (value << 5) | index;
    bits += 5;
    if (bits >= 8) {
      bits -= 8;
      bytes.push((value >>> bits) & 0xff);
    }
  }
  return Buffer.from(bytes);
}

/** The six-digit code of RFC 6238 (SHA-1, 30 s) for a counter. */
export function oneTimeCode(secret, counter) {
  const message = Buffer.alloc(8);
  message.writeBigUInt64BE(BigInt(counter));
  const digest = createHmac('sha1', decodeBase32(secret)).update(message).digest();
  const offset = digest[digest.length - 1] & 0x0f;
  return String((digest.readUInt32BE(offset) & 0x7fffffff) % 1_000_000).padStart(6, '0');
}

export class Accounts {
  #file;
  #used = new Map();

  constructor(file) {
    this.#file = file;
  }

  // Read anew each time: somebody who is taken out of the file, or changes groups, is so from the next question on.
  #find(name) {
    const found = JSON.parse(readFileSync(this.#file, 'utf8'));
    return Object.hasOwn(found, name) ? found[name] : undefined;
  }

  has(name) {
    return this.#find(name) !== undefined;
  }

  claims(name) {
    const { name: fullName, email, groups } = this.#find(name);
    return { sub: name, name: fullName ?? name, preferred_username: name, email, email_verified: true, groups: groups ?? [] };
  }

  needsCode(name) {
    return Boolean(this.#find(name)?.totp);
  }

  passwordFits(name, password) {
    // A name that nobody has costs the same time as one with a wrong password.
    const known = this.#find(name)?.password;
    const fits = same(password ?? '', known ?? '\0');
    return known !== undefined && fits;
  }

  codeFits(name, code) {
    const { totp } = this.#find(name);
    const now = Math.floor(Date.now() / 1000 / STEP_SECONDS);
    for (const counter of [now, now - 1, now + 1]) {
      if (same(code ?? '', oneTimeCode(totp, counter))) {
        // A code works once (RFC 6238, section 5.2).
        if ((this.#used.get(name) ?? -1) >= counter) return false;
        this.#used.set(name, counter);
        return true;
      }
    }
    return false;
  }
}
