// Consoles of VMs: a terminal that says back what is typed, and a screen with a plain picture. The guests are made up; what carries
// them, and what shows them, is what people get.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { test } from "node:test";

import { heading, press, says, setStage } from "./stage.mjs";

const axe = createRequire(import.meta.url)("axe-core").source;

const stage = setStage({
  users: { alice: "admin", olga: "operator", vera: "viewer" },
  furnish: async (daemon) => {
    for (const name of ["desk", "shared", "ends"]) {
      await daemon.tranche(["vm", "create", name, "--vcpus", "1", "--memory", "1GiB"]);
      await daemon.tranche(["vm", "start", name]);
    }
    await daemon.tranche(["vm", "create", "off", "--vcpus", "1", "--memory", "1GiB"]);
  },
});

const state = (page) => page.locator("#console-state");
const shown = (page) => page.locator(".xterm-rows");

/** Opens a console from its VM's page, as people do. */
async function openFrom(page, vm, button) {
  await page.goto(`/vms/${vm}`);
  await page.getByRole("link", { name: button, exact: true }).click();
  await heading(page, `${button} of ${vm}`);
}

/** What a WebSocket comes to that a page of another site, or somebody without a session, opens. */
function attempt(page, address) {
  return page.evaluate((address) => new Promise((done) => {
    const socket = new WebSocket(address.replace("https:", "wss:"));
    socket.onopen = () => done("open");
    socket.onerror = () => done("refused");
  }), address);
}

/** What axe finds amiss on a page. */
async function barriers(page) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
  return violations.map(({ id, nodes }) => `${id}: ${nodes.map(({ target }) => target).join(" ")}`);
}

async function audited(what) {
  const log = JSON.parse(await stage.daemon.tranche(["-o", "json", "audit"]));
  return log.filter((entry) => entry.what === what).map(({ who, status, outcome }) => ({ who, status, outcome }));
}

test("what is typed into the serial console comes back, and opening it is in the audit log", async () => {
  const page = await stage.as("olga");
  await openFrom(page, "desk", "Serial console");
  await shown(page).getByText("desk: this guest is made up, and says back what is typed.").waitFor();
  await page.keyboard.type("echo hello");
  await page.keyboard.press("Enter");
  await page.keyboard.type("\u001b[38;2;250;120;10mcoloured");
  await shown(page).getByText("echo hello").waitFor();
  await shown(page).getByText("coloured").waitFor();
  const colour = await shown(page).getByText("coloured").evaluate((text) => getComputedStyle(text).color);
  assert.equal(colour, "rgb(250, 120, 10)");
  assert.deepEqual(await barriers(page), []);
  if (process.env.SCREENSHOTS) await page.screenshot({ path: `${process.env.SCREENSHOTS}/serial.png` });
  const [entry] = await audited("GET /v1/vms/desk/console");
  assert.deepEqual(entry, { who: "olga", status: 101, outcome: "serial console of VM desk opened" });
});

test("the keyboard finds its way out of the terminal", async () => {
  const page = await stage.as("olga");
  await openFrom(page, "desk", "Serial console");
  await says(page, "Connected.");
  await page.keyboard.press("Control+]");
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "VMs");
});

test("somebody else has the serial console until it is taken over", async () => {
  const [first, second] = [await stage.as("alice"), await stage.as("olga")];
  await openFrom(first, "shared", "Serial console");
  await state(first).getByText("Connected.").waitFor();
  await openFrom(second, "shared", "Serial console");
  await second.getByText("Somebody else has the serial console of VM shared.").waitFor();
  await press(second, "Take it over");
  await state(second).getByText("Connected.").waitFor();
  await state(first).getByText("The console has ended").waitFor();
});

test("the screen shows the guest's picture, and keys reach it", async () => {
  const page = await stage.as("olga");
  stage.forgive(page, /Multiple readback operations/);
  await openFrom(page, "desk", "Screen");
  await state(page).getByText("Connected.").waitFor();
  const colours = () => page.locator("#console-view canvas").evaluate((canvas) => {
    const at = (x, y) => [...canvas.getContext("2d").getImageData(x, y, 1, 1).data.slice(0, 3)];
    return { size: [canvas.width, canvas.height], ground: at(10, 10), bar: at(90, 100) };
  });
  await page.waitForFunction(() => document.querySelector("#console-view canvas").width === 320);
  const until = async (bar) => {
    for (;;) {
      const seen = await colours();
      if (seen.bar.join() === bar.join()) return seen;
      await page.evaluate(() => new Promise(requestAnimationFrame));
    }
  };
  const plain = await until([0x4c, 0x8c, 0xb0]);
  assert.deepEqual(plain, { size: [320, 200], ground: [0x1c, 0x2a, 0x3a], bar: [0x4c, 0x8c, 0xb0] });
  await page.keyboard.down("a");
  await until([0xf0, 0xa0, 0x30]);
  await page.keyboard.up("a");
  await until([0x4c, 0x8c, 0xb0]);
  await page.getByRole("button", { name: "Send Ctrl+Alt+Del" }).waitFor();
  assert.deepEqual(await barriers(page), []);
  if (process.env.SCREENSHOTS) await page.screenshot({ path: `${process.env.SCREENSHOTS}/screen.png` });
  await page.keyboard.press("Control+]");
  assert.equal(await page.evaluate(() => document.activeElement.textContent), "VMs");
});

test("a console ends when its VM is turned off", async () => {
  const page = await stage.as("olga");
  await openFrom(page, "ends", "Serial console");
  await state(page).getByText("Connected.").waitFor();
  await stage.daemon.tranche(["vm", "stop", "ends", "--force"]);
  await state(page).getByText("The console has ended").waitFor();
  await press(page, "Connect again");
  await page.getByText("VM ends does not run.").waitFor();
});

test("a session that ends takes its console along", async () => {
  const page = await stage.as("olga");
  await openFrom(page, "desk", "Screen");
  await state(page).getByText("Connected.").waitFor();
  const other = await page.context().newPage();
  await other.goto("/");
  await press(other, "Log out");
  await state(page).getByText("The session or the token has ended").waitFor();
});

test("without a session, from another site, and to viewers there is no console", async () => {
  const address = `${stage.daemon.origin}/vms/desk/serial/socket`;
  const nobody = await stage.open();
  await nobody.goto("/login");
  stage.forgive(nobody, /WebSocket connection to .* failed/);
  assert.equal(await attempt(nobody, address), "refused");

  const viewer = await stage.as("vera");
  await viewer.goto("/vms/desk");
  assert.equal(await viewer.getByRole("link", { name: "Serial console" }).count(), 0);
  await viewer.goto("/vms/desk/serial");
  await says(viewer, "This is for operators");
  stage.forgive(viewer, /WebSocket connection to .* failed/);
  assert.equal(await attempt(viewer, address), "refused");
  const [entry] = await audited("GET /v1/vms/desk/console");
  assert.deepEqual([entry.who, entry.status], ["vera", 403]);

  const page = await stage.as("olga");
  await page.goto("/vms/off");
  assert.equal(await page.getByRole("link", { name: "Serial console" }).count(), 0, "one that is off has none");
});

test("the command lends its terminal to the guest until Ctrl-]", async () => {
  const child = stage.daemon.begin(["vm", "console", "desk", "--force"]);
  let said = "";
  child.stdout.setEncoding("utf8").on("data", (text) => { said += text; });
  const until = async (text) => { while (!said.includes(text)) await new Promise((done) => child.stdout.once("data", done)); };
  await until("says back what is typed");
  child.stdin.write("from the command\r");
  await until("from the command\r\n");
  const ended = new Promise((done) => child.once("close", done));
  child.stdin.write("\u001d");
  assert.equal(await ended, 0);
  await assert.rejects(stage.daemon.tranche(["vm", "console", "off"]), /VM off does not run/);
});
