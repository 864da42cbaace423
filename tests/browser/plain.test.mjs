// Without scripts everything works with plain forms and links; only nothing moves by itself.

import assert from "node:assert/strict";
import { test } from "node:test";

import { heading, press, row, setStage } from "./stage.mjs";

const stage = setStage();

const PATIENCE_MS = 30_000;

/** Loads a page again until its state is this. */
async function untilItIs(page, state) {
  const badge = page.locator("main .state").first().getByText(state, { exact: true });
  const deadline = performance.now() + PATIENCE_MS;
  while (!(await badge.isVisible())) {
    assert.ok(performance.now() < deadline, `it is never ${state}`);
    await page.reload();
  }
}

test("without scripts a GPU is split, and a VM is made and started with a partition of it", async () => {
  const page = await stage.as("alice", { javaScriptEnabled: false });
  await page.goto("/gpus/node1/0000:41:00.0");
  await page.getByRole("radio", { name: "Split it into equal partitions" }).check();
  await page.getByLabel("Number of partitions").selectOption("4 Q");
  await press(page, "Preview");
  await heading(page, "GPU node1/0000:41:00.0: 4 partitions, series Q");
  await press(page, "Apply exactly this");
  await heading(page, "NVIDIA A16 0000:41:00.0");
  await untilItIs(page, "partitioned");

  await page.goto("/vms/new");
  await page.getByLabel("Name").fill("desk-01");
  await page.getByLabel("What it asks for").selectOption("profile");
  await page.getByLabel("Profile").fill("4Q");
  await press(page, "Preview");
  await press(page, "Make it");
  await heading(page, "desk-01");
  await untilItIs(page, "stopped");
  await press(page, "Start");
  await untilItIs(page, "running");

  await page.goto("/vms");
  await row(page, "desk-01").getByText("0000:41:00.0/0").waitFor();
});

test("without scripts all GPUs of the set are split at once", async () => {
  const page = await stage.as("alice", { javaScriptEnabled: false });
  await page.goto("/partition");
  await page.getByLabel("Number of partitions").selectOption("2 Q");
  await press(page, "Preview");
  await press(page, "Apply exactly this");
  await untilItIs(page, "succeeded");
});

test("without scripts a user is deleted in two steps, and the way out works", async () => {
  await stage.daemon.createUser("dora", "viewer");
  const page = await stage.as("alice", { javaScriptEnabled: false });
  await page.goto("/access");
  await row(page, "dora").getByText("Delete", { exact: true }).click();
  await press(page, "Delete dora for good");
  await row(page, "dora").waitFor({ state: "detached" });
  await press(page, "Log out");
  await heading(page, "Log in");
});
