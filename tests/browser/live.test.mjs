// Two browsers: what one changes, the other shows.

import assert from "node:assert/strict";
import { test } from "node:test";

import { press, setStage, SILENCE } from "./stage.mjs";

const stage = setStage({
  users: { alice: "admin", bert: "operator" },
  furnish: async (daemon) => {
    await daemon.tranche(["gpu", "partition", "41:00.0", "4"]);
    await daemon.tranche(["vm", "create", "desk-01", "--vcpus", "1", "--memory", "1GiB", "--gpu", "any"]);
  },
});

/** Marks a page, so that it can be told whether it is still the same document. */
async function mark(page) {
  await page.evaluate(() => { window.isSame = true; });
  return async () => assert.ok(await page.evaluate(() => window.isSame), "it was not loaded anew");
}

test("a VM that one starts, the other sees run, without loading the page anew", async (t) => {
  const watching = await stage.as("alice");
  await watching.goto("/vms");
  const isSame = await mark(watching);
  const page = await stage.as("bert");
  await page.goto("/vms/desk-01");
  const seen = watching.getByRole("table", { name: "VMs" }).getByText("running").waitFor();
  const accepted = page.waitForResponse((response) => response.request().method() === "POST");
  await press(page, "Start");
  await accepted;
  const began = performance.now();
  await seen;
  t.diagnostic(`seen ${Math.round(performance.now() - began)} ms after the change was accepted`);
  await isSame();
});

test("GPUs that one splits, the other sees split, and what the other is filling in stays as it is", async (t) => {
  const watching = await stage.as("alice");
  await watching.goto("/gpus/node1/0000:42:00.0");
  const isSame = await mark(watching);
  await watching.getByRole("radio", { name: "Give it whole to one VM" }).check();
  await watching.getByLabel("Pool").fill("render");

  const page = await stage.as("alice");
  await page.goto("/gpus/node1/0000:42:00.0");
  await page.getByRole("radio", { name: "Split it into equal partitions" }).check();
  await page.getByLabel("Number of partitions").selectOption("2 Q");
  await press(page, "Preview");
  const seen = watching.locator("#live .state").getByText("2 partitions, series Q").waitFor();
  const accepted = page.waitForResponse((response) => response.request().method() === "POST");
  await press(page, "Apply exactly this");
  await accepted;
  const began = performance.now();
  await seen;
  t.diagnostic(`seen ${Math.round(performance.now() - began)} ms after the change was accepted`);
  await watching.locator("#live .state").getByText("partitioned", { exact: true }).waitFor();
  assert.equal(await watching.getByLabel("Pool").inputValue(), "render");
  assert.ok(await watching.getByRole("radio", { name: "Give it whole to one VM" }).isChecked());
  await isSame();
});

test("what is folded in stays folded in while a page reads itself anew", async () => {
  const page = await stage.as("alice");
  await page.goto("/gpus");
  const gpu = page.locator("details.gpu").filter({ hasText: "0000:41:00.0" });
  await gpu.locator("summary").first().click({ position: { x: 4, y: 4 } });
  assert.equal(await gpu.getAttribute("open"), null);
  await stage.daemon.tranche(["gpu", "partition", "43:00.0", "8"]);
  await page.locator("details.gpu").filter({ hasText: "0000:43:00.0" }).getByText("8 partitions", { exact: true }).waitFor();
  assert.equal(await gpu.getAttribute("open"), null);
});

test("a page whose daemon is gone says so, and goes on when it is back", async () => {
  const page = await stage.as("alice");
  await page.goto("/vms");
  const isSame = await mark(page);
  stage.forgive(page, SILENCE);
  const stale = page.getByText("Not up to date: the daemon does not answer");
  await stage.daemon.stop();
  await stale.waitFor();
  await stage.daemon.start();
  await stale.waitFor({ state: "hidden" });
  await stage.daemon.tranche(["vm", "create", "afterwards", "--vcpus", "1", "--memory", "1GiB"]);
  await page.getByRole("link", { name: "afterwards" }).waitFor();
  await isSame();
});
