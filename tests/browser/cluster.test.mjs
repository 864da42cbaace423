// Several hosts: taking one out of service, what would follow if one died, and whether all are alike.

import assert from "node:assert/strict";
import { test } from "node:test";

import { heading, press, row, says, setStage } from "./stage.mjs";

const stage = setStage({
  users: { olga: "operator", alice: "admin" },
  hosts: 3,
  furnish: async (daemon) => {
    for (const gpu of ["node1/41:00.0", "node2/41:00.0"]) await daemon.tranche(["gpu", "partition", gpu, "4"]);
    await daemon.tranche(["gpu", "partition", "node3/41:00.0", "2"]);
    for (const name of ["desk-01", "desk-02"]) {
      await daemon.tranche(["vm", "create", name, "--vcpus", "1", "--memory", "1GiB", "--gpu", "profile:4Q"]);
      await daemon.tranche(["vm", "start", name]);
    }
    await daemon.tranche(["rule", "set", "pair", "--vm", "desk-01,desk-02", "--together"]);
  },
});

const state = (page) => page.locator("main .state").first();

/** The host on which a VM runs, and another one that could take it. */
async function places(name) {
  const vms = JSON.parse(await stage.daemon.tranche(["vm", "list", "--output", "json"]));
  const here = vms.find((vm) => vm.name === name).host;
  return { here, there: ["node1", "node2"].find((host) => host !== here) };
}

test("every host is listed with what it has, and leads to its own page", async () => {
  const page = await stage.as("olga");
  await page.goto("/hosts");
  for (const host of ["node1", "node2", "node3"]) await row(page, host).getByText("up", { exact: true }).waitFor();
  await page.getByRole("link", { name: "node2" }).click();
  await heading(page, "node2");
  await says(page, "takes VMs");
  assert.equal(await page.getByRole("table", { name: "GPUs of this host" }).getByRole("row").count(), 6);
});

test("where a VM could go is shown with what stands against it, and it goes there after a preview", async () => {
  const { here, there } = await places("desk-01");
  const page = await stage.as("olga");
  await page.goto("/vms/desk-01");
  await row(page, there).getByText("restart", { exact: true }).waitFor();
  await row(page, "node3").getByText("not possible").waitFor();
  await press(page, `Preview a move to ${there}`);
  await heading(page, "Move desk-01");
  await page.getByRole("row", { name: "desk-01" }).getByText("is shut down and started on another host").waitFor();
  await press(page, "Move it");
  await page.getByRole("status").getByText("succeeded").waitFor();
  await state(page).getByText("running").waitFor();
  assert.equal((await places("desk-01")).here, there);
  assert.notEqual(there, here);
});

test("a host is drained after a preview that names each VM, and serves again", async () => {
  const { here, there } = await places("desk-01");
  const page = await stage.as("olga");
  await page.goto(`/hosts/${here}`);
  await press(page, "Drain");
  await heading(page, `Drain ${here}`);
  const effect = page.getByRole("row", { name: "desk-01" });
  await effect.getByText("is shut down and started on another host").waitFor();
  await effect.getByRole("link", { name: there }).waitFor();
  await press(page, "Drain it");
  await heading(page, here);
  await state(page).getByText("maintenance").waitFor();
  await page.getByRole("status").getByText("succeeded").waitFor();
  assert.equal((await places("desk-01")).here, there);

  await press(page, "Let it serve again");
  await heading(page, `Let ${here} serve again`);
  await press(page, "Let it serve again");
  await state(page).getByText("up", { exact: true }).waitFor();
});

test("failover is paused and resumed by administrators, each after a preview", async () => {
  const looking = await stage.as("olga");
  await looking.goto("/hosts");
  await looking.getByText("failover on").waitFor();
  assert.equal(await looking.getByRole("button", { name: "Pause failover" }).count(), 0);

  const page = await stage.as("alice");
  await page.goto("/hosts");
  await press(page, "Pause failover");
  await press(page, "Pause it");
  await heading(page, "Hosts");
  await looking.getByText("failover paused").waitFor();
  await press(page, "Resume failover");
  await press(page, "Resume it");
  await heading(page, "Hosts");
  await looking.getByText("failover on").waitFor();
});

test("what would follow if hosts died is asked with a plain form", async () => {
  const page = await stage.as("olga");
  await page.goto("/capacity");
  await says(page, "Every protected VM would run again whichever one host died.");
  await page.getByText("What if hosts died?").click();
  await page.getByRole("checkbox", { name: "node1" }).check();
  await page.getByRole("checkbox", { name: "node2" }).check();
  await press(page, "See what would follow");
  await says(page, "As if these hosts had died: node1, node2");
  await says(page, "These VMs of theirs would not run:");
  await page.getByRole("link", { name: "desk-01" }).first().waitFor();
  await page.getByRole("link", { name: "As things are" }).click();
  await page.getByText("As if these hosts had died").waitFor({ state: "detached" });
});

test("what is not alike is named with what it breaks and what mends it", async () => {
  const page = await stage.as("olga");
  await page.goto("/homogeneity");
  await state(page).or(page.getByText("not homogeneous", { exact: true })).first().waitFor();
  await row(page, "partition count").getByText("severe").waitFor();
  await row(page, "partition count").getByText("failover, live migration").waitFor();
  const mend = page.getByRole("listitem").filter({ hasText: "tranche gpu partition node3/0000:41:00.0" });
  await mend.getByRole("link", { name: "node3/0000:41:00.0" }).click();
  await heading(page, "NVIDIA A16 0000:41:00.0");
});

test("findings are filtered by severity, and each leads to where it is mended", async () => {
  const page = await stage.as("alice");
  await page.goto("/findings");
  const unlike = page.getByRole("listitem").filter({ hasText: "unlike_count" });
  await unlike.waitFor();
  await page.getByRole("link", { name: /^Errors \(0\)$/ }).click();
  await says(page, "Nothing is wrong, and nothing waits.");
  await page.getByRole("link", { name: /^Warnings \(\d+\)$/ }).click();
  await unlike.getByRole("link", { name: "Configure partitions" }).click();
  await heading(page, "Configure partitions");
});

test("operations are listed with what they are about, and each tells what happened", async () => {
  const page = await stage.as("olga");
  await page.goto("/operations");
  const start = row(page, "start VM desk-01");
  await start.getByText("succeeded").waitFor();
  await start.getByRole("link", { name: "start VM desk-01" }).click();
  await heading(page, "start VM desk-01");
  const log = page.getByRole("table", { name: "What happened, oldest first" });
  assert.match(await log.innerText(), /accepted[^]*define VM desk-01[^]*succeeded/);
});

test("rules are shown in words with their VMs", async () => {
  const page = await stage.as("olga");
  await page.goto("/rules");
  await row(page, "pair").getByText("together").waitFor();
  await row(page, "pair").getByText("preference").waitFor();
  await row(page, "pair").getByRole("link", { name: "desk-02" }).click();
  await heading(page, "desk-02");
});

test("any host of the cluster shows the same, to whoever it knows", async () => {
  const [, last] = stage.daemon.others;
  const page = await stage.as("olga");
  const other = await stage.as("olga", { daemon: last });
  await other.goto("/hosts");
  for (const host of ["node1", "node2", "node3"]) await row(other, host).getByText("up", { exact: true }).waitFor();
  await page.goto("/vms/desk-02");
  await press(page, "Shut down");
  await other.goto("/vms");
  const cell = row(other, "desk-02");
  await cell.getByText("running").waitFor();
  await press(page, "Shut it down");
  await cell.getByText("stopped").waitFor();
});

test("a console is opened from whichever host, and the bytes go to the one where the VM is", async () => {
  await stage.daemon.tranche(["vm", "create", "far", "--vcpus", "1", "--memory", "1GiB"]);
  await stage.daemon.tranche(["vm", "start", "far"]);
  const { host } = JSON.parse(await stage.daemon.tranche(["-o", "json", "vm", "show", "far"]));
  for (const daemon of [stage.daemon, ...stage.daemon.others]) {
    const page = await stage.open({ daemon });
    await page.goto(await stage.daemon.link("alice"));
    await page.getByRole("button", { name: "Log in with this link" }).click();
    await heading(page, "Overview");
    await page.goto("/vms/far/serial");
    await page.locator(".xterm-rows").getByText("far: this guest is made up").waitFor();
    await page.keyboard.type(`from ${daemon.host} to ${host}`);
    await page.locator(".xterm-rows").getByText(`from ${daemon.host} to ${host}`).waitFor();
    await page.goto("/vms/far/screen");
    await page.locator("#console-state").getByText("Connected.").waitFor();
    await page.waitForFunction(() => document.querySelector("#console-view canvas").width === 320);
    await page.goto("/");
  }
});

test("the history of a GPU is that of its own host, whichever host is asked, and a host that is away is named", async () => {
  const [second, last] = stage.daemon.others;
  const page = await stage.as("olga", { daemon: last });
  const load = page.getByRole("row", { name: "Load, partition 3" });
  // A daemon that has just started measures within ten seconds.
  for (let patience = 30; patience > 0 && !(await load.isVisible()); patience -= 1) {
    await page.waitForTimeout(1_000);
    await page.goto("/gpus/node2/0000:41:00.0?range=24h");
  }
  assert.match(await load.innerText(), /\d+\s%/);
  await says(page, "Measured by node2 since");
  await page.locator(".charts canvas").first().waitFor();
  // The script asks, too, and is told the same.
  stage.forgive(page, /503/);
  await second.stop();
  await page.reload();
  await says(page, "Host node2 keeps this history and cannot be asked for it");
});
