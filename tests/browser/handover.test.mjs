// A VM goes to a host that shares no store with its own: two daemons, each with a console of its own.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";

import { startDaemon } from "./daemon.mjs";
import { isFine } from "./fine.mjs";
import { heading, press, row, says, setStage } from "./stage.mjs";

const split = (daemon) => daemon.tranche(["gpu", "partition", "41:00.0", "4"]);
const stage = setStage({ users: { alice: "admin", vera: "viewer" }, furnish: split });

let other;
before(async () => {
  other = await startDaemon({ host: "node2" });
  await other.createUser("bert", "admin");
  await split(other);
});
after(() => other?.end());

const state = (page) => page.locator("main .state").first();
const FORM = "Move to a host with a store of its own";

/** Bert at the other host. */
async function there() {
  const page = await stage.open({ daemon: other });
  await page.goto(await other.link("bert"));
  await press(page, "Log in with this link");
  await heading(page, "Overview");
  return page;
}

/** Makes an invitation and returns its token. */
async function invite(page) {
  await page.goto("/invitations");
  await page.getByLabel("Minutes").fill("10");
  await press(page, "Make a token");
  await heading(page, "New invitation");
  const token = await page.locator("pre.secret").textContent();
  await page.getByRole("link", { name: "Done" }).click();
  await heading(page, "Invitations");
  return token;
}

async function offer(page, token) {
  await page.getByLabel("The other host\u2019s console").fill(other.origin);
  await page.getByLabel("Token", { exact: true }).fill(token);
  await press(page, "Preview how it would go");
}

test("a VM is invited there, shown here how it would go, and goes", async () => {
  await stage.daemon.tranche(["vm", "create", "desk-01", "--vcpus", "1", "--memory", "1GiB", "--gpu", "any"]);
  await stage.daemon.tranche(["vm", "start", "desk-01"]);
  const host = await there();
  const token = await invite(host);
  assert.ok(!(await host.content()).includes(token), "it is shown once");
  await isFine(host, "invitations");

  const page = await stage.as("alice");
  await page.goto("/vms/desk-01");
  await state(page).getByText("running").waitFor();
  await offer(page, token);
  await heading(page, "Move desk-01 to node2");
  await says(page, "is shut down here and started on");
  await isFine(page, "handover");
  await press(page, "Move it");
  await heading(page, "hand VM desk-01 over to host node2");
  await says(page, "succeeded");

  await host.goto("/vms/desk-01");
  await state(host).getByText("running").waitFor();
  await host.goto("/invitations");
  await host.getByRole("cell", { name: "arrived" }).waitFor();
  await page.goto("/vms");
  await says(page, "There is no VM yet.");
});

test("a token that was withdrawn opens nothing, and what was typed is there but for the token", async () => {
  await stage.daemon.tranche(["vm", "create", "desk-02", "--vcpus", "1", "--memory", "1GiB"]);
  await stage.daemon.tranche(["vm", "start", "desk-02"]);
  const host = await there();
  const token = await invite(host);
  const open = host.getByRole("row").filter({ hasText: "open" });
  await open.getByRole("button", { name: "Withdraw" }).click();
  await open.waitFor({ state: "detached" });

  const page = await stage.as("alice");
  await page.goto("/vms/desk-02");
  await offer(page, token);
  await page.getByRole("alert").waitFor();
  assert.equal(await page.getByLabel("The other host\u2019s console").inputValue(), other.origin);
  assert.equal(await page.getByLabel("Token", { exact: true }).inputValue(), "");
  await page.goto("/vms/desk-02");
  await state(page).getByText("running").waitFor();
});

test("who may not hand VMs over is shown no form for it", async () => {
  await stage.daemon.tranche(["vm", "create", "desk-03", "--vcpus", "1", "--memory", "1GiB"]);
  const page = await stage.as("vera");
  await page.goto("/vms");
  await row(page, "desk-03").waitFor();
  await page.goto("/vms/desk-03");
  await heading(page, "desk-03");
  assert.equal(await page.getByRole("heading", { name: FORM }).count(), 0);
});
