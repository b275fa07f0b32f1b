// The pages of the demo's provider. Every value from outside is escaped; no script runs on the login page.

const TEXTS = {
  en: {
    demo: 'Demo login',
    note: 'This is the demonstration’s own login service. A real deployment uses the login of your organisation.',
    name: 'User name',
    password: 'Password',
    login: 'Log in',
    codeTitle: 'Second factor',
    codeNote: 'Enter the six digits that your authenticator app shows.',
    code: 'One-time code',
    confirm: 'Confirm',
    wrongPassword: 'The user name or the password is not right.',
    wrongCode: 'The code is not right, or it was used already. Wait for the next one.',
    logoutTitle: 'Logging out…',
    logout: 'Log out here too',
    errorTitle: 'This login cannot go on',
    errorNote: 'It may have been open for too long. Go back to the portal and log in again.',
  },
  fr: {
    demo: 'Connexion de démonstration',
    note: 'Ceci est le service de connexion propre à la démonstration. Un déploiement réel utilise celui de votre organisation.',
    name: 'Nom d’utilisateur',
    password: 'Mot de passe',
    login: 'Se connecter',
    codeTitle: 'Second facteur',
    codeNote: 'Saisissez les six chiffres affichés par votre application d’authentification.',
    code: 'Code à usage unique',
    confirm: 'Confirmer',
    wrongPassword: 'Le nom d’utilisateur ou le mot de passe est inexact.',
    wrongCode: 'Le code est inexact ou a déjà servi. Attendez le suivant.',
    logoutTitle: 'Déconnexion…',
    logout: 'Se déconnecter ici aussi',
    errorTitle: 'Cette connexion ne peut pas se poursuivre',
    errorNote: 'Elle est peut-être restée ouverte trop longtemps. Revenez au portail et connectez-vous à nouveau.',
  },
};

const ENTITIES = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' };
const escape = (value) => String(value ?? '').replace(/[&<>"']/g, (sign) => ENTITIES[sign]);

/** The texts for a request's languages; English unless French is asked for first. */
export function textsFor(header) {
  const first = String(header ?? '').split(',')[0].trim().toLowerCase();
  return first.startsWith('fr') ? { lang: 'fr', ...TEXTS.fr } : { lang: 'en', ...TEXTS.en };
}

function page(texts, title, body, { script = '' } = {}) {
  return `<!doctype html>
<html lang="${texts.lang}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>${escape(title)}</title>
<link rel="stylesheet" href="/assets/idp.css">
${script}
</head>
<body>
<main>
<p class="badge">${escape(texts.demo)}</p>
<h1>${escape(title)}</h1>
${body}
</main>
</body>
</html>`;
}

export function passwordPage(texts, uid, { name = '', wrong = false } = {}) {
  return page(
    texts,
    texts.login,
    `${wrong ? `<p class="wrong" role="alert">${escape(texts.wrongPassword)}</p>` : ''}
<form method="post" action="/interaction/${escape(uid)}/password" autocomplete="on">
<label for="name">${escape(texts.name)}</label>
<input id="name" name="name" value="${escape(name)}" autocomplete="username" autocapitalize="none" spellcheck="false" required${name ? '' : ' autofocus'}>
<label for="password">${escape(texts.password)}</label>
<input id="password" name="password" type="password" autocomplete="current-password" required${name ? ' autofocus' : ''}>
<button type="submit">${escape(texts.login)}</button>
</form>
<p class="note">${escape(texts.note)}</p>`,
  );
}

export function codePage(texts, uid, { wrong = false } = {}) {
  return page(
    texts,
    texts.codeTitle,
    `${wrong ? `<p class="wrong" role="alert">${escape(texts.wrongCode)}</p>` : ''}
<p>${escape(texts.codeNote)}</p>
<form method="post" action="/interaction/${escape(uid)}/code">
<label for="code">${escape(texts.code)}</label>
<input id="code" name="code" inputmode="numeric" autocomplete="one-time-code" pattern="[0-9]{6}" maxlength="6" required autofocus>
<button type="submit">${escape(texts.confirm)}</button>
</form>
<p class="note">${escape(texts.note)}</p>`,
  );
}

/** The provider's own log-out form (it carries a token against forgery), sent at once. */
export function logoutPage(texts, form) {
  return page(
    texts,
    texts.logoutTitle,
    `${form}
<p><button type="submit" form="op.logoutForm" name="logout" value="yes">${escape(texts.logout)}</button></p>`,
    { script: '<script src="/assets/logout.js" defer></script>' },
  );
}

export function errorPage(texts, detail) {
  return page(
    texts,
    texts.errorTitle,
    `<p>${escape(texts.errorNote)}</p>${detail ? `<p class="note">${escape(detail)}</p>` : ''}`,
  );
}
