// The consoles of a VM: a terminal (xterm.js) or a screen (noVNC) at the end of a WebSocket.
//
// Binary messages are the guest's. A text message is the daemon's: a problem, as the REST interface has it, which says why there is
// no console. Why one that was open has ended stands in how it is closed.
const frame = document.getElementById("console");
const view = document.getElementById("console-view");
const state = document.getElementById("console-state");
const problem = document.getElementById("console-problem");
const again = document.getElementById("console-again");
const force = document.getElementById("console-force");
const keys = document.getElementById("console-keys");
const password = document.getElementById("console-password");

const kinds = { serial: terminal, screen };
/** Longer texts are pasted in pieces, because the daemon takes no longer messages. */
const PIECE_LEN = 32 * 1024;

function tell(text) { state.textContent = text; }

function explain(told) {
  problem.hidden = !told;
  problem.querySelector(".what").textContent = told ? told.detail : "";
  problem.querySelector(".hint").textContent = told ? told.hint : "";
  force.hidden = !told || told.code !== "console_busy";
}

/** Opens the WebSocket, and hands it to `attach` before anything comes. */
function connect(attach, takeOver) {
  const address = new URL(frame.dataset.socket, location.href);
  address.protocol = "wss:";
  if (takeOver) address.searchParams.set("force", "true");
  tell("Connecting …");
  explain(null);
  again.hidden = true;
  const socket = new WebSocket(address);
  socket.binaryType = "arraybuffer";
  let refusal = null;
  let isOpen = false;
  socket.addEventListener("message", (event) => {
    if (typeof event.data === "string") refusal = JSON.parse(event.data);
    else if (!isOpen) {
      isOpen = true;
      tell("Connected.");
    }
  });
  socket.addEventListener("close", (event) => {
    explain(refusal);
    if (refusal) tell("Not connected.");
    else if (event.reason) tell(event.reason);
    else tell(isOpen ? "The connection was lost." : "The daemon did not open it. Load the page again: you may have been logged out.");
    again.hidden = false;
    keys.hidden = true;
    password.hidden = true;
  });
  socket.addEventListener("error", () => { /* What follows is that it is closed. */ });
  attach(socket);
}

/** Ctrl+] leaves what takes every other key. */
function isWayOut(event) { return event.ctrlKey && !event.altKey && (event.key === "]" || event.code === "BracketRight"); }
function leave() { (document.querySelector(".above a[href]") ?? again).focus(); }

/**
 * xterm.js puts what follows from its settings (colours, the size of a letter) into the page as text of <style> and as attributes. The
 * policy of the console's pages allows neither, but it lets scripts set styles: so they are taken from it and set.
 */
function takeStyles() {
  const create = document.createElement;
  document.createElement = function (name, ...more) {
    if (name !== "style") return create.call(document, name, ...more);
    const sheet = new CSSStyleSheet();
    document.adoptedStyleSheets.push(sheet);
    const standIn = create.call(document, "span");
    standIn.hidden = true;
    Object.defineProperty(standIn, "textContent", { get: () => "", set: (text) => sheet.replaceSync(text) });
    return standIn;
  };
  const set = Element.prototype.setAttribute;
  Element.prototype.setAttribute = function (name, value) {
    if (name === "style") this.style.cssText = value;
    else set.call(this, name, value);
  };
}

async function terminal() {
  takeStyles();
  const { Terminal } = await import(frame.dataset.library);
  const shown = new Terminal({ cols: 80, rows: 25, cursorBlink: false, scrollback: 5000, fontFamily: "monospace", fontSize: 14 });
  shown.open(view);
  shown.attachCustomKeyEventHandler((event) => {
    if (!isWayOut(event)) return true;
    if (event.type === "keydown") leave();
    return false;
  });
  let socket = null;
  const encoder = new TextEncoder();
  const send = (bytes) => {
    if (!socket || socket.readyState !== WebSocket.OPEN) return;
    for (let at = 0; at < bytes.length; at += PIECE_LEN) socket.send(bytes.subarray(at, at + PIECE_LEN));
  };
  shown.onData((text) => send(encoder.encode(text)));
  shown.onBinary((text) => send(Uint8Array.from(text, (letter) => letter.charCodeAt(0))));
  return (takeOver) => connect((fresh) => {
    socket = fresh;
    fresh.addEventListener("open", () => shown.focus());
    fresh.addEventListener("message", (event) => {
      if (typeof event.data !== "string") shown.write(new Uint8Array(event.data));
    });
  }, takeOver);
}

async function screen() {
  const { default: Rfb } = await import(frame.dataset.library);
  let shown = null;
  view.addEventListener("keydown", (event) => {
    if (!isWayOut(event)) return;
    event.preventDefault();
    event.stopPropagation();
    leave();
  }, true);
  keys.addEventListener("click", () => shown && shown.sendCtrlAltDel());
  password.addEventListener("submit", (event) => {
    event.preventDefault();
    const field = password.querySelector("input");
    password.hidden = true;
    if (shown) shown.sendCredentials({ password: field.value });
    field.value = "";
  });
  return () => connect((socket) => {
    shown = new Rfb(view, socket, { shared: true });
    shown.scaleViewport = true;
    shown.addEventListener("connect", () => {
      keys.hidden = false;
      shown.focus();
    });
    shown.addEventListener("credentialsrequired", () => {
      tell("This screen asks for a password.");
      password.hidden = false;
      password.querySelector("input").focus();
    });
    shown.addEventListener("securityfailure", () => explain({
      detail: "The screen did not take the password.", hint: "It is the one of the domain's <graphics>.",
    }));
  }, false);
}

const open = await kinds[frame.dataset.kind]();
again.addEventListener("click", () => open(false));
force.addEventListener("click", () => open(true));
open(false);
