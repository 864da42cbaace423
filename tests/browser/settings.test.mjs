// What holds for longer: policies and rules. Each is changed by a form, after a preview.

import assert from "node:assert/strict";
import { test } from "node:test";

import { heading, press, row, says, setStage } from "./stage.mjs";

const stage = setStage({
  users: { olga: "operator", alice: "admin" },
  hosts: 3,
  furnish: async (daemon) => {
    await daemon.tranche(["gpu", "partition", "node1/41:00.0", "4"]);
    for (const name of ["db-1", "db-2"]) await daemon.tranche(["vm", "create", name, "--vcpus", "1", "--memory", "1GiB"]);
  },
});

/** What the command tells, read. */
const told = async (...line) => JSON.parse(await stage.daemon.tranche([...line, "--output", "json"]));

test("administrators change policies after a preview that says which, and the others stay", async () => {
  const looking = await stage.as("olga");
  await looking.goto("/policy");
  await says(looking, "pack: fill a GPU before the next is begun");
  assert.equal(await looking.getByRole("button", { name: "Preview" }).count(), 0);

  const page = await stage.as("alice");
  await page.goto("/policy");
  await page.getByLabel("VMs over GPUs").selectOption("spread");
  await page.getByLabel("Lost after ms").fill("6000");
  await press(page, "Preview");
  await heading(page, "Change the policies");
  const changes = page.getByRole("table", { name: "What would be otherwise" });
  await changes.getByText("spread: the emptiest GPU first").waitFor();
  assert.equal(await changes.getByRole("row").count(), 3);
  await press(page, "Set them");
  await heading(page, "Policies");
  await page.getByRole("status").getByText("succeeded").waitFor();
  await looking.getByText("spread: the emptiest GPU first").first().waitFor();
  const policy = await told("policy", "show");
  assert.deepEqual([policy.placement, policy.failover.timers.lost_ms, policy.failover.timers.reset_ms], ["spread", 6000, 8000]);
});

test("times that leave no room for each other are refused, and what was typed is still there", async () => {
  const page = await stage.as("alice");
  await page.goto("/policy");
  await page.getByLabel("Reset after ms").fill("1000");
  await press(page, "Preview");
  await page.getByRole("alert").waitFor();
  assert.equal(await page.getByLabel("Reset after ms").inputValue(), "1000");
  await page.getByLabel("Reset after ms").fill("8500");
  await press(page, "Preview");
  await says(page, "8500 ms after it");
});

test("a rule is made, changed and deleted, each after a preview", async () => {
  const page = await stage.as("alice");
  await page.goto("/rules");
  await page.getByRole("link", { name: "New rule" }).click();
  await page.getByLabel("Name").fill("databases");
  await page.getByRole("textbox", { name: "VMs" }).fill("db-1, db-2");
  await page.getByLabel("They run").selectOption("apart");
  await page.getByLabel("Strict").check();
  await press(page, "Preview");
  await heading(page, "New rule databases");
  await press(page, "Set it");
  await heading(page, "Rules");
  await row(page, "databases").getByText("apart").waitFor();
  await row(page, "databases").getByText("strict").waitFor();

  await page.getByRole("link", { name: "Change databases" }).click();
  await heading(page, "Rule databases");
  await page.getByLabel("They run").selectOption("hosts");
  await page.getByRole("textbox", { name: "Hosts" }).fill("node1:10, node2:5");
  await page.getByLabel("Move back").check();
  await press(page, "Preview");
  await page.getByRole("row", { name: "They run" }).getByText("on node1 (10), node2 (5), and back").waitFor();
  await press(page, "Set it");
  await heading(page, "Rules");
  const { databases: rule } = await told("rule", "show", "databases");
  assert.deepEqual([rule.rule, rule.hosts, rule.strict, rule.failback], ["hosts", { node1: 10, node2: 5 }, true, true]);

  await press(page, "Delete databases");
  await heading(page, "Delete rule databases");
  await press(page, "Delete it");
  await heading(page, "Rules");
  await says(page, "There are no rules.");
});

test("what is done for a VM, and the labels of a host, are changed where they are shown", async () => {
  const page = await stage.as("alice");
  await page.goto("/vms/db-1");
  await page.getByLabel("Priority").fill("500");
  await press(page, "Preview the change");
  await heading(page, "Change db-1");
  await press(page, "Change it");
  await heading(page, "db-1");
  assert.equal((await told("vm", "show", "db-1")).availability.priority, 500);

  await page.goto("/hosts/node2");
  await page.getByLabel("Labels").fill("rack=4");
  await press(page, "Preview the change");
  await press(page, "Change it");
  await heading(page, "node2");
  await says(page, "rack=4");
});

test("the cluster is shown with its store, and lets a machine in with a token that is shown once", async () => {
  const page = await stage.as("alice");
  await page.goto("/cluster");
  for (const host of ["node1", "node2", "node3"]) await row(page, host).first().waitFor();
  await press(page, "Make a join token");
  await heading(page, "Join token");
  await says(page, "tranche cluster join ");
});
