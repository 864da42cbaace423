// The life of a VM. The made-up hypervisor defines, starts and ends domains; guests shut down when they are asked to.

import assert from "node:assert/strict";
import { test } from "node:test";

import { heading, press, row, says, setStage } from "./stage.mjs";

const stage = setStage({
  users: { alice: "admin", olga: "operator" },
  furnish: (daemon) => daemon.tranche(["gpu", "partition", "41:00.0", "4"]),
});

const state = (page) => page.locator("main .state").first();

/** Makes a VM by the command and opens its page. */
async function atVm(name, ...more) {
  await stage.daemon.tranche(["vm", "create", name, "--vcpus", "1", "--memory", "1GiB", ...more]);
  const page = await stage.as("olga");
  await page.goto(`/vms/${name}`);
  await heading(page, name);
  return page;
}

test("a VM with a partition is made, started, seen in the list, restarted and shut down", async () => {
  const page = await stage.as("olga");
  await page.goto("/vms");
  await says(page, "There is no VM yet.");
  await page.getByRole("link", { name: "New VM" }).click();
  await page.getByLabel("Name").fill("desk-01");
  await page.getByLabel("Guest system").fill("ubuntu24.04");
  await page.getByLabel("vCPUs").fill("2");
  await page.getByLabel("Memory in MiB", { exact: true }).fill("2048");
  await press(page, "Preview");
  await heading(page, "New VM desk-01");
  await says(page, "create VM desk-01");
  await press(page, "Make it");
  await heading(page, "desk-01");
  await state(page).getByText("stopped").waitFor();

  await press(page, "Start");
  await state(page).getByText("running").waitFor();
  await says(page, "node1/0000:41:00.0/0");

  await page.goto("/vms");
  const cells = await row(page, "desk-01").getByRole("cell").allTextContents();
  assert.deepEqual(cells.slice(0, 7), ["running", "node1", "0000:41:00.0/0", "4Q", "3776 MiB", "2", "2 GiB"]);

  await page.getByRole("link", { name: "desk-01" }).click();
  await press(page, "Restart");
  await page.getByRole("row", { name: "desk-01" }).getByText("is shut down and started again").waitFor();
  await press(page, "Shut it down and start it again");
  await page.getByRole("status").getByText("succeeded").waitFor();
  await state(page).getByText("running").waitFor();

  await press(page, "Shut down");
  await page.getByRole("row", { name: "desk-01" }).getByText("is shut down").waitFor();
  await press(page, "Shut it down");
  await state(page).getByText("stopped").waitFor();
});

test("only the fields that a kind of GPU needs are shown", async () => {
  const page = await stage.as("olga");
  await page.goto("/vms/new");
  const fields = { profile: "Profile", memory: "Video memory in MiB", whole: "Pool" };
  for (const kind of ["any", "profile", "memory", "whole", "none"]) {
    await page.getByLabel("What it asks for").selectOption(kind);
    for (const [needs, label] of Object.entries(fields)) {
      assert.equal(await page.getByLabel(label).isVisible(), needs === kind, `${label} for ${kind}`);
    }
  }
});

test("a partition is taken from a VM that runs and given back, each after a preview that says it restarts", async () => {
  const page = await atVm("desk-02", "--gpu", "any");
  await press(page, "Start");
  await state(page).getByText("running").waitFor();

  await press(page, "Preview taking its GPU");
  await heading(page, "Take the GPU of desk-02");
  await page.getByRole("row", { name: "desk-02" }).getByText("is shut down and started again").waitFor();
  await press(page, "Take its GPU");
  await page.getByRole("status").getByText("succeeded").waitFor();
  await state(page).getByText("running").waitFor();
  await page.reload();
  await page.getByRole("heading", { name: "Give it a GPU" }).waitFor();

  await page.getByLabel("What it asks for").selectOption("profile");
  await page.getByLabel("Profile").fill("4Q");
  await press(page, "Preview");
  await heading(page, "Give a GPU to desk-02");
  await page.getByRole("row", { name: "desk-02" }).getByText("is shut down and started again").waitFor();
  await press(page, "Give it the GPU");
  await page.getByRole("status").getByText("succeeded").waitFor();
  await says(page, "a partition: profile 4Q");
  assert.match(await stage.daemon.tranche(["vm", "list"]), /desk-02 +running +node1 +0000:41:00\.0/);
});

test("a VM for which there is no room waits, says why, and starts by itself when there is", async () => {
  const page = await atVm("desk-03", "--gpu", "whole");
  await press(page, "Start");
  await state(page).getByText("waiting").waitFor();
  await page.getByRole("heading", { name: "Why it waits" }).waitFor();
  await row(page, "node1").getByText("cannot run").waitFor();
  await stage.daemon.tranche(["gpu", "passthrough", "45:00.0"]);
  await state(page).getByText("running").waitFor();
});

test("a VM that runs is deleted only where it is said that it is to be turned off", async () => {
  const page = await atVm("desk-04", "--gpu", "any");
  await press(page, "Start");
  await state(page).getByText("running").waitFor();
  await press(page, "Preview deleting");
  await page.getByRole("alert").waitFor();
  await press(page, "Preview again, with the VM turned off first");
  await page.getByRole("row", { name: "desk-04" }).getByText("is forgotten").waitFor();
  await press(page, "Delete it");
  await heading(page, "delete VM desk-04");
  await says(page, "succeeded");
  await page.goto("/vms/desk-04");
  await heading(page, "That did not work");
});

test("deleting can be thought better of", async () => {
  const page = await atVm("desk-05");
  await press(page, "Preview deleting");
  await page.getByRole("link", { name: "Cancel" }).click();
  await heading(page, "desk-05");
  await state(page).getByText("stopped").waitFor();
});

test("what a form has wrong is said, and nothing is made", async () => {
  const page = await stage.as("olga");
  await page.goto("/vms/new");
  await page.getByLabel("Name").fill("desk-06");
  await page.getByLabel("Disks").fill("nowhere");
  await press(page, "Preview");
  await says(page, "“nowhere” is no disk.");
  assert.doesNotMatch(await stage.daemon.tranche(["vm", "list"]), /desk-06/);
});

test("the list is filtered by text, state and host", async () => {
  await stage.daemon.tranche(["vm", "create", "filtered", "--vcpus", "1", "--memory", "1GiB", "--guest-os", "win11"]);
  const page = await stage.as("olga");
  await page.goto("/vms");
  await page.getByLabel("Text").fill("WIN11");
  await press(page, "Filter");
  await page.getByText(/^1 of \d+ VMs$/).waitFor();
  await row(page, "filtered").waitFor();
  await page.getByLabel("State").selectOption("running");
  await press(page, "Filter");
  await says(page, "No VM is like that.");
});
