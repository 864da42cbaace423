// What pages cannot do without a script, and do without if there is none: the theme, texts that follow a choice, and what must stay as it
// is while a page reads itself anew. It runs before the page is drawn, so that a chosen theme does not flash.
(function () {
  "use strict";
  const THEME = "tranche-theme";
  const root = document.documentElement;

  function chosen() {
    try { return localStorage.getItem(THEME); } catch { return null; }
  }
  function paint(theme) {
    if (theme === "light" || theme === "dark") root.dataset.theme = theme;
    else delete root.dataset.theme;
  }
  paint(chosen());

  function themes() {
    const button = document.getElementById("theme");
    if (!button) return;
    const order = ["", "light", "dark"];
    const names = { "": "Theme: system", light: "Theme: light", dark: "Theme: dark" };
    let theme = order.includes(chosen()) ? chosen() : "";
    const tell = () => { button.textContent = names[theme]; };
    button.hidden = false;
    button.addEventListener("click", () => {
      theme = order[(order.indexOf(theme) + 1) % order.length];
      try { localStorage.setItem(THEME, theme); } catch { /* It holds for this page then. */ }
      paint(theme);
      tell();
    });
    tell();
  }

  // The partition page: memory that follows the count, and a warning when GPUs of the chosen set are left out.
  function partitions() {
    const count = document.getElementById("f-count");
    const memory = document.getElementById("memory");
    if (count && memory) {
      const tell = () => {
        const option = count.selectedOptions[0];
        memory.textContent = (option && option.dataset.memory) || "not known before the GPUs are split";
      };
      count.addEventListener("change", tell);
      tell();
    }
    const warning = document.getElementById("incomplete");
    if (warning) {
      const sets = [...document.querySelectorAll("fieldset[data-set]")];
      const check = () => {
        const boxes = sets.map((set) => [...set.querySelectorAll("input[type=checkbox]")]);
        warning.hidden = !boxes.some((set) => set.some((box) => box.checked) && set.some((box) => !box.checked));
      };
      sets.forEach((set) => set.addEventListener("change", check));
      check();
    }
  }

  // Fields that only one choice needs are out of the way for the others.
  function requests() {
    const kind = document.getElementById("f-gpu");
    if (!kind) return;
    const needs = { profile: ["profile"], vram_mib: ["memory"], gpus: ["whole"], pool: ["whole"] };
    const show = () => {
      for (const [name, kinds] of Object.entries(needs)) {
        const field = document.getElementById("f-" + name);
        if (field) field.closest(".field").hidden = !kinds.includes(kind.value);
      }
    };
    kind.addEventListener("change", show);
    show();
  }

  // While a page reads itself anew: a form that somebody is at stays, and so do the focus and what is folded out.
  function isBusy(region) {
    const at = document.activeElement;
    if (at && region.contains(at) && at.matches("input, select, textarea")) return true;
    return region.querySelector("form[data-edited]") !== null;
  }
  function nameOf(element) {
    if (element.id) return "#" + CSS.escape(element.id);
    const href = element.getAttribute("href");
    if (href) return 'a[href="' + CSS.escape(href) + '"]';
    const folded = element.matches("summary") && element.parentElement.id;
    return folded ? "#" + CSS.escape(folded) + " > summary" : null;
  }
  let focus = null;
  let late = false;

  document.addEventListener("input", (event) => {
    const form = event.target.closest("form");
    if (form) form.dataset.edited = "";
  });
  document.addEventListener("htmx:beforeRequest", (event) => {
    if (document.hidden) {
      late = true;
      event.preventDefault();
    }
  });
  document.addEventListener("visibilitychange", () => {
    if (late && !document.hidden && window.htmx) {
      late = false;
      window.htmx.trigger("#main", "sse:changed");
    }
  });
  document.addEventListener("htmx:oobBeforeSwap", (event) => {
    const { target, fragment } = event.detail;
    if (isBusy(target)) {
      event.detail.shouldSwap = false;
      return;
    }
    for (const old of target.querySelectorAll("details[id]")) {
      const fresh = fragment.querySelector("#" + CSS.escape(old.id));
      if (fresh) fresh.open = old.open;
    }
    const at = document.activeElement;
    focus = at && target.contains(at) ? nameOf(at) : null;
  });
  document.addEventListener("htmx:oobAfterSwap", () => {
    const found = focus && document.querySelector(focus);
    if (found) found.focus({ preventScroll: true });
    focus = null;
  });

  // A page that no longer hears of changes says so, but not for a moment without connection.
  const PATIENCE_MS = 4000;
  let silence = null;
  function hears(does) {
    const stale = document.getElementById("stale");
    if (!stale) return;
    if (does) {
      clearTimeout(silence);
      silence = null;
      stale.hidden = true;
    } else if (silence === null) {
      silence = setTimeout(() => { stale.hidden = false; }, PATIENCE_MS);
    }
  }
  document.addEventListener("htmx:sseOpen", () => hears(true));
  document.addEventListener("htmx:sseError", () => hears(false));

  // A page that is left ends its stream itself, open or not yet: else each leaves an error on the browser's console. One that comes
  // back as it was left would hear of nothing any more.
  let stream = null;
  function streams() {
    if (window.htmx) window.htmx.createEventSource = (address) => (stream = new EventSource(address));
  }
  window.addEventListener("pagehide", () => { if (stream) stream.close(); });
  window.addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });

  document.addEventListener("DOMContentLoaded", () => {
    streams();
    const here = document.querySelector(".menu [aria-current]");
    if (here) here.scrollIntoView({ block: "nearest", inline: "center" });
    themes();
    partitions();
    requests();
  });
})();
