// Histories: how busy GPUs, partitions and VMs were, as charts and as figures. Those of a made-up host are made up, for a week.

import assert from "node:assert/strict";
import { test } from "node:test";

import { heading, setStage } from "./stage.mjs";

const GPU = "/gpus/node1/0000:41:00.0";
const UNITS = { utilization_percent: "%", memory_used_mib: "MiB", temperature_c: "°C", power_w: "W" };

const stage = setStage({ users: { alice: "admin", vera: "viewer" }, furnish });

async function furnish(daemon) {
  const tranche = (line) => daemon.tranche(line.split(" "));
  await tranche("gpu partition 41:00.0 4 --series Q");
  await tranche("vm create desk-01 --vcpus 4 --memory 8GiB --gpu profile:4Q");
  await tranche("vm start desk-01");
}

/** Waits until something was measured, which a daemon does every ten seconds. */
async function measured(page, path, quantity = "Load, partition 3") {
  const row = page.getByRole("row", { name: quantity });
  for (let patience = 60; patience > 0; patience -= 1) {
    await page.goto(path);
    if (await row.first().isVisible()) return;
    await page.waitForTimeout(1_000);
  }
  assert.fail(`${path} never shows ${quantity}`);
}

/** The rows of the table: what was measured, and three figures. */
const rows = (page) => page.locator("#history tbody tr").evaluateAll((all) =>
  all.map((row) => [...row.children].map((cell) => cell.textContent.replaceAll("\u00a0", " ").trim())));

/** The same figures from the command, which asks the REST interface. */
async function told(args) {
  const { series } = JSON.parse(await stage.daemon.tranche([...args, "-o", "json"]));
  return series.map(({ quantity, partition, last, mean, max }) =>
    [quantity, partition, ...[last, mean, max].map((value) => `${value} ${UNITS[quantity]}`)]);
}

/** Charts are there as soon as their data have come. */
async function charts(page, count) {
  const canvases = page.locator(".charts canvas");
  await canvases.nth(count - 1).waitFor();
  assert.equal(await canvases.count(), count);
  return canvases;
}

/** How many points of a canvas are not empty. */
const drawn = (canvas) => canvas.evaluate((element) =>
  element.getContext("2d").getImageData(0, 0, element.width, element.height).data.filter((value, at) => at % 4 === 3 && value > 0).length);

test("the page of a GPU has charts of it and its partitions, and figures that are those of the interface", async () => {
  const page = await stage.as("vera");
  await measured(page, `${GPU}?range=7d`);
  const canvases = await charts(page, 4);
  for (const canvas of await canvases.all()) assert.ok(await drawn(canvas) > 500, "something is drawn");
  // Another look may have come between the two.
  let shown, expected;
  for (let patience = 5; patience > 0; patience -= 1) {
    await page.goto(`${GPU}?range=7d`);
    shown = await rows(page);
    expected = await told(["gpu", "history", "node1/0000:41:00.0", "--last", "7d"]);
    if (JSON.stringify(shown.map((row) => row.slice(1))) === JSON.stringify(expected.map((row) => row.slice(2)))) break;
  }
  assert.deepEqual(shown.map((row) => row.slice(1)), expected.map((row) => row.slice(2)));
  assert.equal(shown.length, 4 + 4 * 2);
  const legend = page.locator(".charts figure").first().locator(".u-legend");
  for (const name of ["All of it", "Partition 0", "Partition 3"]) await legend.getByText(name, { exact: true }).waitFor();
});

test("the range is chosen by links, and the arrow keys go through a chart", async () => {
  const page = await stage.as("alice");
  await measured(page, GPU);
  const ranges = page.getByRole("navigation", { name: "How far back" });
  await ranges.getByRole("link", { name: "24 hours" }).click();
  assert.equal(await ranges.locator("[aria-current]").textContent(), "24 hours");
  const canvas = (await charts(page, 4)).first();
  assert.match(await canvas.getAttribute("aria-label"), /^Load, 24 hours/);
  await canvas.focus();
  await page.keyboard.press("End");
  const time = page.locator(".charts .u-legend").first().locator(".u-value").first();
  const last = await time.textContent();
  await page.keyboard.press("ArrowLeft");
  assert.match(last, /UTC$/);
  assert.notEqual(await time.textContent(), last);
});

test("the page of a VM has charts, also in the dark and on a telephone", async () => {
  const page = await stage.as("vera", { colorScheme: "dark", viewport: { width: 390, height: 844 } });
  await measured(page, "/vms/desk-01", "Load");
  await charts(page, 2);
  assert.ok(await page.evaluate(() => document.documentElement.scrollWidth) <= 390);
});

test("without scripts the figures are there, and no empty place for charts", async () => {
  const page = await stage.as("vera", { javaScriptEnabled: false });
  await measured(page, "/vms/desk-01", "Load");
  const [load, memory] = await rows(page);
  assert.match(load.join(" "), /^Load \d+ % \d+ % \d+ %$/);
  assert.match(memory.join(" "), /^Memory in use \d+ MiB \d+ MiB \d+ MiB$/);
  assert.equal(await page.locator(".charts").isVisible(), false);
  await page.getByRole("link", { name: "7 days" }).click();
  await heading(page, "desk-01");
  assert.equal(await page.locator("#history [aria-current]").textContent(), "7 days");
});

test("pages without charts do not load what draws them", async () => {
  const page = await stage.as("vera");
  const loaded = [];
  page.on("request", (request) => loaded.push(request.url()));
  await page.goto("/gpus");
  assert.deepEqual(loaded.filter((url) => /uplot|chart/.test(url)), []);
});

test("the audit log shows what was otherwise before", async () => {
  await stage.daemon.tranche(["vm", "set", "desk-01", "--priority", "700"]);
  const page = await stage.as("alice");
  await page.goto("/audit");
  const entry = page.getByRole("row").filter({ hasText: "PATCH /v1/vms/desk-01" }).first();
  assert.match((await entry.textContent()).replaceAll("\u00a0", " "), /availability\.priority \d+ → 700/);
});
