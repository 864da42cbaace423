// Splitting GPUs: all that are alike at once, and a single one.

import assert from "node:assert/strict";
import { test } from "node:test";

import { heading, press, says, setStage } from "./stage.mjs";

const stage = setStage();

const alike = (page) => page.getByRole("checkbox", { name: "NVIDIA A16" });
const other = (page) => page.getByRole("checkbox", { name: "NVIDIA L40S" });
const count = (page) => page.getByLabel("Number of partitions");

async function atPartitions(options) {
  const page = await stage.as("alice", options);
  await page.goto("/partition");
  return page;
}

test("the largest set of GPUs that are alike is chosen beforehand", async () => {
  const page = await atPartitions();
  assert.equal(await alike(page).count(), 4);
  for (const box of await alike(page).all()) assert.ok(await box.isChecked());
  assert.equal(await other(page).count(), 1);
  assert.ok(!(await other(page).isChecked()));
  await says(page, "Not all GPUs of all hosts have the same configuration.");
});

test("the memory of a partition follows the count that is chosen", async () => {
  const page = await atPartitions();
  const memory = page.locator("output");
  for (const [offer, size] of [["4 Q", "3776 MiB"], ["16 Q", "896 MiB"], ["4 C", "4 GiB"], ["release", "all of it, for the host"]]) {
    await count(page).selectOption(offer);
    assert.equal(await memory.textContent(), size);
  }
});

test("leaving out a GPU of the set is warned of, and taking it back takes the warning back", async () => {
  const page = await atPartitions();
  const warning = page.getByText("Some GPUs of the homogeneous set are not selected.");
  await warning.waitFor({ state: "hidden" });
  await alike(page).nth(2).uncheck();
  await warning.waitFor();
  await alike(page).nth(2).check();
  await warning.waitFor({ state: "hidden" });
});

test("without any GPU nothing is previewed", async () => {
  const page = await atPartitions();
  for (const box of await alike(page).all()) await box.uncheck();
  await press(page, "Preview");
  await says(page, "No GPU is selected.");
});

test("GPUs are split as the preview said, and a page that is open shows it by itself", async () => {
  const watching = await stage.as("alice");
  await watching.goto("/gpus");
  assert.equal(await watching.getByText("partitionable", { exact: true }).count(), 5);
  await watching.evaluate(() => { window.isSame = true; });

  const page = await atPartitions();
  await count(page).selectOption("4 Q");
  await press(page, "Preview");
  await says(page, "split 4 GPUs into 4 partitions each");
  await says(page, "No VM is affected.");
  const effect = page.getByRole("table", { name: "What becomes of each GPU" });
  assert.equal(await effect.getByRole("cell", { name: "4 partitions, series Q" }).count(), 4);
  assert.equal(await watching.getByText("partitionable", { exact: true }).count(), 5, "a preview changes nothing");

  await press(page, "Apply exactly this");
  await heading(page, "split 4 GPUs into 4 partitions each");
  await says(page, "succeeded");
  await watching.getByText("partitioned", { exact: true }).nth(3).waitFor();
  await watching.getByText("node1 5 GPUs, 16 of 16 free").waitFor();
  assert.equal(await watching.getByRole("rowheader", { name: "3", exact: true }).count(), 4);
  assert.ok(await watching.evaluate(() => window.isSame), "it was not loaded anew");
});

test("what is so already leaves every GPU as it is", async () => {
  const page = await atPartitions();
  await count(page).selectOption("4 Q");
  await press(page, "Preview");
  await says(page, "No VM is affected.");
  assert.equal(await page.getByRole("table", { name: "What becomes of each GPU" }).count(), 0);
});

test("what has changed since the preview is shown instead of being done", async () => {
  const page = await atPartitions();
  await count(page).selectOption("8 Q");
  await press(page, "Preview");
  await says(page, "split 4 GPUs into 8 partitions each");
  await stage.daemon.tranche(["gpu", "partition", "44:00.0", "2"]);
  await press(page, "Apply exactly this");
  await says(page, "Something has changed since you looked, so nothing was done.");
  await page.getByRole("cell", { name: "2 partitions", exact: true }).waitFor();
  assert.match(await stage.daemon.tranche(["gpu", "list"]), /41:00\.0 .* partitioned +4 /);
});

test("GPUs in use are left alone unless their VMs are to be shut down, which the preview tells", async () => {
  await stage.daemon.tranche(["vm", "create", "busy", "--vcpus", "1", "--memory", "1GiB", "--gpu", "any"]);
  await stage.daemon.tranche(["vm", "start", "busy"]);
  const page = await atPartitions();
  await page.getByRole("listitem").filter({ hasText: "NVIDIA A16" }).getByText("1 VM", { exact: true }).waitFor();
  for (const box of await alike(page).all()) await box.check();
  await count(page).selectOption("release");
  await press(page, "Preview");
  await page.getByRole("alert").getByText("is in use by VM busy").waitFor();
  await press(page, "Preview again, with VMs shut down first");
  const effect = page.getByRole("table", { name: "What becomes of each VM" });
  await effect.getByRole("row", { name: "busy" }).waitFor();
  await page.getByRole("link", { name: "Cancel" }).click();
  await heading(page, "Configure partitions");
  assert.match(await stage.daemon.tranche(["vm", "list"]), /busy +running/);
});

test("a single GPU is made ready for a VM as a whole, and given back", async () => {
  const page = await stage.as("alice");
  await page.goto("/gpus/node1/0000:45:00.0");
  const state = page.locator("main .state").first();
  await state.getByText("partitionable").waitFor();
  await page.getByRole("radio", { name: "Give it whole to one VM" }).check();
  await page.getByLabel("Pool").fill("render");
  await press(page, "Preview");
  await heading(page, "GPU node1/0000:45:00.0: passthrough, pool render");
  await press(page, "Apply exactly this");
  await heading(page, "NVIDIA L40S 0000:45:00.0");
  await state.getByText("ready for passthrough").waitFor();

  await page.getByRole("radio", { name: "Leave it to the host" }).check();
  await press(page, "Preview");
  await press(page, "Apply exactly this");
  await heading(page, "NVIDIA L40S 0000:45:00.0");
  await state.getByText("partitionable").waitFor();
});
