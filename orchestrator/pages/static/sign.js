// Asks the passkey to sign the decision that the page shows, and sends the form with the signature.
(() => {
  const form = document.getElementById('signing');
  const failed = document.getElementById('not-signed');
  const bytes = (text) => Uint8Array.from(
    atob(text.replaceAll('-', '+').replaceAll('_', '/')), (char) => char.charCodeAt(0));
  const text = (buffer) => btoa(String.fromCharCode(...new Uint8Array(buffer)))
    .replaceAll('+', '-').replaceAll('/', '_').replaceAll('=', '');

  form.addEventListener('submit', async (event) => {
    if (form.elements._signature.value) return;
    event.preventDefault();
    failed.hidden = true;
    const options = JSON.parse(form.dataset.options);
    options.challenge = bytes(options.challenge);
    for (const key of options.allowCredentials || []) key.id = bytes(key.id);
    try {
      const made = await navigator.credentials.get({ publicKey: options });
      form.elements._signature.value = JSON.stringify({
        record: form.dataset.record,
        credential: {
          id: made.id,
          response: {
            authenticatorData: text(made.response.authenticatorData),
            clientDataJSON: text(made.response.clientDataJSON),
            signature: text(made.response.signature),
          },
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
