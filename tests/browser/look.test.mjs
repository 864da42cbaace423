// How every page looks: to whoever reads it with a program, in the dark, and on a telephone.
//
// SCREENSHOTS names a directory into which each page is drawn as well.

import assert from "node:assert/strict";
import { mkdir } from "node:fs/promises";
import { test } from "node:test";

import { furnish } from "./furnished.mjs";
import { SCREENSHOTS, isFine } from "./fine.mjs";
import { PAGES } from "./pages.mjs";
import { heading, press, says, setStage } from "./stage.mjs";

/** Alice's, for all pages: what the audit log is to show is not how often she looked. */
let session;

const stage = setStage({ users: { alice: "admin", bert: "operator" }, hosts: 3, furnish, begin });

async function begin() {
  if (SCREENSHOTS) await mkdir(SCREENSHOTS, { recursive: true });
  const page = await stage.as("alice");
  await page.goto("/vms/desk-05");
  await press(page, "Start");
  await page.locator("main .state").getByText("running").waitFor();
  session = await page.context().storageState();
}

/** Pages that the menu does not lead to, and how one gets there. */
const OTHERS = {
  gpu: (page) => page.goto("/gpus/node1/0000:41:00.0"),
  vm: (page) => page.goto("/vms/desk-01"),
  history: async (page) => {
    await page.goto("/gpus/node1/0000:41:00.0?range=24h#history");
    await page.locator(".charts canvas").nth(3).waitFor();
  },
  "vm-waiting": (page) => page.goto("/vms/render-02"),
  "invitations-in-a-cluster": (page) => page.goto("/invitations"),
  "vm-new": (page) => page.goto("/vms/new"),
  host: (page) => page.goto("/hosts/node1"),
  "rules-edit": (page) => page.goto("/rules/edit?rule=render-near"),
  adopt: (page) => page.goto("/adopt"),
  "capacity-without": (page) => page.goto("/capacity?without=node1&without=node2"),
  operation: async (page) => {
    await page.goto("/operations");
    await page.getByRole("link", { name: "start VM desk-01" }).click();
    await heading(page, "start VM desk-01");
  },
  preview: async (page) => {
    await page.goto("/partition");
    for (const box of await page.getByRole("group", { name: "Set 1" }).getByRole("checkbox").all()) await box.check();
    await page.getByLabel("Shut down VMs that hold these GPUs first").check();
    await page.getByLabel("Number of partitions").selectOption("8 Q");
    await press(page, "Preview");
    await says(page, "What would be asked for");
  },
  refusal: async (page) => {
    await page.goto("/partition");
    await page.getByLabel("Number of partitions").selectOption("8 Q");
    await press(page, "Preview");
    await page.getByRole("alert").waitFor();
  },
  drain: async (page) => {
    await page.goto("/hosts/node1");
    await press(page, "Drain");
    await heading(page, "Drain node1");
  },
  nowhere: (page) => page.goto("/nowhere"),
  secret: async (page) => {
    await page.goto("/access");
    await page.getByRole("row", { name: "bert" }).getByRole("button", { name: "One-time link" }).click();
    await heading(page, "One-time link");
  },
};

const ways = {
  ...Object.fromEntries(Object.entries(PAGES).map(([name, path]) => [name, (page) => page.goto(path)])),
  ...OTHERS,
};

for (const [name, go] of Object.entries(ways)) {
  test(`the page ${name} is fine for programs that read it, in light and dark, wide and narrow`, async () => {
    const page = await stage.open({ storageState: session });
    await go(page);
    await isFine(page, name);
  });
}

test("the way in is fine for programs that read it, in light and dark, wide and narrow", async () => {
  const page = await stage.open();
  await page.goto("/login");
  await isFine(page, "login");
  await page.goto(await stage.daemon.link("bert"));
  await isFine(page, "login-link");
});

test("a theme that is chosen stays chosen, on every page", async () => {
  const page = await stage.as("alice");
  const background = () => page.evaluate(() => getComputedStyle(document.documentElement).backgroundColor);
  const light = await background();
  await press(page, "Theme: system");
  await press(page, "Theme: light");
  await page.getByRole("button", { name: "Theme: dark" }).waitFor();
  assert.notEqual(await background(), light);
  await page.goto("/vms");
  await page.getByRole("button", { name: "Theme: dark" }).waitFor();
  assert.notEqual(await background(), light);
});
