// All of it without a mouse.

import assert from "node:assert/strict";
import { test } from "node:test";

import { heading, says, setStage } from "./stage.mjs";

const stage = setStage();

/** What has the focus, in words. */
const focused = (page) => page.evaluate(() => named(document.activeElement));

/** Everything in the content that can be reached, in the order in which it stands there. */
const reachable = (page) => page.evaluate(() => {
  const all = document.querySelectorAll("#main :is(a[href], button, input, select, textarea, summary, [tabindex='0'])");
  return [...all].filter((element) => element.type !== "hidden" && element.checkVisibility() && !element.disabled).map(named);
});

async function atPartitions() {
  const page = await stage.as("alice");
  await page.addInitScript(() => {
    window.named = (element) => `${element.localName} ${element.name || element.textContent.trim()} ${element.value || ""}`.trim();
  });
  await page.goto("/partition");
  return page;
}

async function tabTo(page, wanted) {
  for (let presses = 0; presses < 60; presses += 1) {
    await page.keyboard.press("Tab");
    if ((await focused(page)).startsWith(wanted)) return;
  }
  assert.fail(`Tab does not reach ${wanted}`);
}

test("the first Tab leads to a link over the menu, to the content", async () => {
  const page = await atPartitions();
  await page.keyboard.press("Tab");
  const link = page.getByRole("link", { name: "Skip to the content" });
  assert.ok(await link.evaluate((element) => element === document.activeElement));
  const box = await link.boundingBox();
  assert.ok(box.y >= 0 && box.height > 10, "it can be seen while it has the focus");
  await page.keyboard.press("Enter");
  await page.keyboard.press("Tab");
  assert.equal(await focused(page), (await reachable(page))[0]);
});

test("Tab reaches everything on the partition page, in the order in which it stands there", async () => {
  const page = await atPartitions();
  const expected = await reachable(page);
  assert.ok(expected.includes("button Preview") && expected.includes("select count 1 Q"), expected.join("\n"));
  await page.getByRole("link", { name: "Skip to the content" }).press("Enter");
  const reached = [];
  for (let presses = 0; presses < expected.length; presses += 1) {
    await page.keyboard.press("Tab");
    reached.push(await focused(page));
  }
  assert.deepEqual(reached, expected);
});

test("what has the focus stands out", async () => {
  const page = await atPartitions();
  for (const wanted of ["input gpu", "select count", "button Preview"]) {
    await tabTo(page, wanted);
    const outline = await page.evaluate(() => {
      const { outlineStyle, outlineWidth, boxShadow } = getComputedStyle(document.activeElement);
      return { line: outlineStyle !== "none" && parseFloat(outlineWidth) > 0, boxShadow };
    });
    assert.ok(outline.line || outline.boxShadow !== "none", wanted);
  }
});

test("GPUs are split with the keyboard alone", async () => {
  const page = await atPartitions();
  await tabTo(page, "select count");
  await page.keyboard.press("ArrowDown");
  assert.equal(await page.locator("output").textContent(), "7616 MiB");
  await tabTo(page, "button Preview");
  await page.keyboard.press("Enter");
  await heading(page, "4 GPUs: 2 partitions, series Q");
  await tabTo(page, "button Apply exactly this");
  await page.keyboard.press("Enter");
  await heading(page, "split 4 GPUs into 2 partitions each");
  await says(page, "succeeded");
});

test("Enter in a field sends its form", async () => {
  const page = await stage.as("alice");
  await page.goto("/gpus");
  await page.getByLabel("Text").fill("L40S");
  await page.keyboard.press("Enter");
  await says(page, "1 of 5 GPUs");
});

test("the line of a GPU folds it in and out with Enter, and the link beside it leads to its page", async () => {
  const page = await stage.as("alice");
  await page.goto("/gpus");
  const gpu = page.locator("details.gpu").first();
  await gpu.locator("summary").focus();
  await page.keyboard.press("Enter");
  assert.equal(await gpu.getAttribute("open"), null);
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  await heading(page, "NVIDIA A16 0000:41:00.0");
});

test("the focus stays where it is while a page reads itself anew", async () => {
  const page = await stage.as("alice");
  await page.goto("/vms");
  await stage.daemon.tranche(["vm", "create", "first", "--vcpus", "1", "--memory", "1GiB"]);
  const link = page.getByRole("link", { name: "first", exact: true });
  await link.focus();
  await stage.daemon.tranche(["vm", "create", "second", "--vcpus", "1", "--memory", "1GiB"]);
  await page.getByRole("link", { name: "second", exact: true }).waitFor();
  assert.ok(await link.evaluate((element) => element === document.activeElement));
});
