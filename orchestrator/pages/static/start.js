// Shows the steps of a start as they happen, and goes to the workspace the moment it is ready.
(() => {
  const card = document.getElementById('start');
  const steps = [...card.querySelectorAll('.steps li')];
  const spoken = document.getElementById('spoken');
  const failed = document.getElementById('failed');
  const show = (id) => { document.getElementById(id).hidden = false; };
  const hide = (id) => { document.getElementById(id).hidden = true; };
  let at = -1;
  let over = false;

  function mark(step, state) {
    step.dataset.state = state;
    step.querySelector('.state').textContent = state === 'done' ? `, ${spoken.dataset.done}` : '';
    if (state === 'now') step.setAttribute('aria-current', 'step');
    else step.removeAttribute('aria-current');
  }

  function reach(name) {
    const index = steps.findIndex((step) => step.dataset.step === name);
    if (index < 0 || index < at) return;
    for (const [i, step] of steps.entries()) {
      if (i < index) mark(step, 'done');
    }
    if (index !== at) spoken.textContent = steps[index].querySelector('.text').textContent;
    mark(steps[index], name === 'ready' ? 'done' : 'now');
    at = index;
  }

  function count(event) {
    const step = steps.find((one) => one.dataset.step === event.step);
    const rows = step && step.querySelector('.rows');
    if (!rows) return;
    const bar = step.querySelector('progress');
    rows.textContent = event.text;
    bar.max = event.total;
    bar.value = Math.min(event.done, event.total);
    rows.hidden = bar.hidden = false;
  }

  function end(fault) {
    over = true;
    source.close();
    if (at >= 0) mark(steps[at], 'failed');
    for (const part of ['title', 'message', 'hint', 'advice']) {
      const place = failed.querySelector(`.${part}`);
      place.textContent = fault[part];
      place.hidden = !fault[part];
    }
    hide('cancel');
    hide('now');
    show('failed');
    show('again');
    show('back');
  }

  const source = new EventSource(card.dataset.events);
  source.onmessage = (message) => {
    const event = JSON.parse(message.data);
    if (event.step) reach(event.step);
    if (event.total) count(event);
    if (event.failed && !over) end(event.failed);
    if (event.gone && !over) {
      over = true;
      source.close();
      hide('cancel');
      show('gone');
      show('again');
      show('back');
    }
    if (event.ready && !over) {
      over = true;
      source.close();
      reach('ready');
      // replace: "back" from the desktop leads to the projects, not to a start that is over
      window.location.replace(event.url);
    }
  };
  source.onerror = () => {
    // The stream ends with a last event; before that, the browser connects again by itself and gets all steps anew.
    if (!over) spoken.textContent = spoken.dataset.lost;
    if (source.readyState === EventSource.CLOSED && !over) window.location.reload();
  };
})();
