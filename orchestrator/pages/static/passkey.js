// Has the browser make a passkey, and sends the form with what it made.
(() => {
  const form = document.getElementById('making');
  const failed = document.getElementById('not-made');
  const bytes = (text) => Uint8Array.from(
    atob(text.replaceAll('-', '+').replaceAll('_', '/')), (char) => char.charCodeAt(0));
  const text = (buffer) => btoa(String.fromCharCode(...new Uint8Array(buffer)))
    .replaceAll('+', '-').replaceAll('/', '_').replaceAll('=', '');

  form.addEventListener('submit', async (event) => {
    if (form.elements.credential.value) return;
    event.preventDefault();
    failed.hidden = true;
    try {
      const options = JSON.parse(form.dataset.options);
      options.challenge = bytes(options.challenge);
      options.user.id = bytes(options.user.id);
      for (const key of options.excludeCredentials || []) key.id = bytes(key.id);
      const made = await navigator.credentials.create({ publicKey: options });
      form.elements.credential.value = JSON.stringify({
        id: made.id,
        rawId: text(made.rawId),
        type: made.type,
        response: {
          clientDataJSON: text(made.response.clientDataJSON),
          attestationObject: text(made.response.attestationObject),
          transports: made.response.getTransports ? made.response.getTransports() : [],
        },
      });
      form.submit();
    } catch (fault) {
      failed.hidden = false;
    }
  });
  // Not before: without this script the form would go without what it is for.
  form.querySelector('button[type=submit]').disabled = false;
})();
