// The demo's OpenID provider: the certified provider library `oidc-provider`, on loopback, with accounts from a file.
// All state is in memory and the signing keys are made at start, so nothing of it outlives the process.
import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { fileURLToPath } from 'node:url';

import Provider, { errors } from 'oidc-provider';

import { Accounts } from './accounts.mjs';
import { codePage, errorPage, logoutPage, passwordPage, textsFor } from './pages.mjs';

const configuration = JSON.parse(readFileSync(0, 'utf8'));
const accounts = new Accounts(configuration.accounts_file);
const assets = new Map(
  [
    ['/assets/idp.css', 'text/css; charset=utf-8'],
    ['/assets/logout.js', 'text/javascript; charset=utf-8'],
  ].map(([path, type]) => [path, { type, body: readFileSync(fileURLToPath(new URL(`.${path}`, import.meta.url))) }]),
);
const HEADERS = {
  'Content-Type': 'text/html; charset=utf-8',
  'Cache-Control': 'no-store',
  'X-Content-Type-Options': 'nosniff',
  'Referrer-Policy': 'no-referrer',
  // no form-action: browsers apply it to the redirect that ends a login, which goes to the portal's own address
  'Content-Security-Policy': "default-src 'none'; style-src 'self'; script-src 'self'; frame-ancestors 'none'; base-uri 'none'",
};
const LARGEST_FORM = 8192;

const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });
const key = { ...privateKey.export({ format: 'jwk' }), use: 'sig', alg: 'RS256', kid: randomBytes(8).toString('hex') };

const provider = new Provider(configuration.issuer, {
  clients: [
    {
      client_id: configuration.client_id,
      client_secret: configuration.client_secret,
      redirect_uris: [`${configuration.public_url}/hub/oauth_callback`],
      post_logout_redirect_uris: [`${configuration.public_url}/hub/logout`],
      response_types: ['code'],
      grant_types: ['authorization_code', 'refresh_token'],
    },
  ],
  jwks: { keys: [key] },
  cookies: { keys: [randomBytes(32).toString('hex')] },
  claims: { openid: ['sub', 'amr', 'acr', 'groups'], profile: ['name', 'preferred_username'], email: ['email', 'email_verified'] },
  // offline_access is not among them: this provider gives refresh tokens without it, as Keycloak does.
  scopes: ['openid', 'profile', 'email'],
  pkce: { required: () => true },
  features: {
    devInteractions: { enabled: false },
    rpInitiatedLogout: {
      enabled: true,
      logoutSource: (context, form) => {
        context.set(HEADERS);
        context.body = logoutPage(textsFor(context.get('accept-language')), form);
      },
    },
  },
  interactions: { url: (context, interaction) => `/interaction/${interaction.uid}` },
  ttl: { Interaction: 900, Session: 43200, Grant: 43200, IdToken: 600, AccessToken: 600, AuthorizationCode: 60, RefreshToken: 43200 },
  issueRefreshToken: async () => true,
  findAccount: (context, id) =>
    accounts.has(id) ? { accountId: id, claims: () => accounts.claims(id) } : undefined,
  // There is one client and it is the deployment's own: people are not asked to agree to themselves.
  loadExistingGrant: async (context) => {
    const grant = new context.oidc.provider.Grant({
      clientId: context.oidc.client.clientId,
      accountId: context.oidc.session.accountId,
    });
    grant.addOIDCScope('openid profile email');
    await grant.save();
    return grant;
  },
  renderError: (context, out) => {
    context.set(HEADERS);
    context.body = errorPage(textsFor(context.get('accept-language')), out.error_description ?? out.error);
  },
});

// People whose password was right and who still owe a one-time code, by login.
const halfway = new Map();

async function form(request) {
  let text = '';
  for await (const chunk of request) {
    text += chunk;
    if (text.length > LARGEST_FORM) throw new errors.InvalidRequest('the form is too large');
  }
  return new URLSearchParams(text);
}

function finish(request, response, accountId, methods) {
  return provider.interactionFinished(request, response, { login: { accountId, amr: methods, remember: true } });
}

async function interact(request, response, uid, step) {
  const texts = textsFor(request.headers['accept-language']);
  const send = (body, status = 200) => response.writeHead(status, HEADERS).end(body);
  const details = await provider.interactionDetails(request, response);
  if (details.uid !== uid) throw new errors.SessionNotFound('another login was begun since');
  if (request.method === 'GET' && !step) {
    halfway.delete(uid);
    return send(passwordPage(texts, uid));
  }
  if (request.method !== 'POST') throw new errors.InvalidRequest('unexpected request');
  const given = await form(request);
  if (step === 'password') {
    const name = (given.get('name') ?? '').trim();
    if (!accounts.passwordFits(name, given.get('password'))) {
      await new Promise((resolve) => setTimeout(resolve, 500));
      return send(passwordPage(texts, uid, { name, wrong: true }), 401);
    }
    if (!accounts.needsCode(name)) return finish(request, response, name, ['pwd']);
    halfway.set(uid, { name, tries: 0 });
    return send(codePage(texts, uid));
  }
  const waiting = halfway.get(uid);
  if (step !== 'code' || !waiting) throw new errors.InvalidRequest('unexpected request');
  if (accounts.codeFits(waiting.name, given.get('code'))) {
    halfway.delete(uid);
    return finish(request, response, waiting.name, ['pwd', 'otp']);
  }
  waiting.tries += 1;
  if (waiting.tries >= 5) {
    halfway.delete(uid);
    return send(passwordPage(texts, uid, { wrong: true }), 401);
  }
  await new Promise((resolve) => setTimeout(resolve, 500));
  return send(codePage(texts, uid, { wrong: true }), 401);
}

const serve = provider.callback();
const server = createServer((request, response) => {
  const { pathname } = new URL(request.url, configuration.issuer);
  const asset = assets.get(pathname);
  if (asset) {
    response.writeHead(200, { ...HEADERS, 'Content-Type': asset.type, 'Cache-Control': 'max-age=3600' }).end(asset.body);
    return;
  }
  const found = /^\/interaction\/([\w-]+)(?:\/(password|code))?$/.exec(pathname);
  if (!found) {
    serve(request, response);
    return;
  }
  interact(request, response, found[1], found[2]).catch((error) => {
    if (!(error instanceof errors.OIDCProviderError)) console.error(error);
    const texts = textsFor(request.headers['accept-language']);
    response.writeHead(400, HEADERS).end(errorPage(texts, error.error_description ?? ''));
  });
});

server.listen(configuration.port, configuration.host, () => {
  console.log(`demo login service at ${configuration.issuer}`);
});
for (const signal of ['SIGTERM', 'SIGINT']) process.on(signal, () => process.exit(0));
