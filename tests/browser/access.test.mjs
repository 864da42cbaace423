// Users, tokens, what was done by whom, and what those see and may who only look.

import assert from "node:assert/strict";
import { test } from "node:test";

import { PAGES } from "./pages.mjs";
import { heading, press, row, says, setStage } from "./stage.mjs";

const stage = setStage({
  users: { alice: "admin", victor: "viewer", olga: "operator" },
  furnish: async (daemon) => {
    await daemon.tranche(["gpu", "partition", "41:00.0", "4"]);
    await daemon.tranche(["vm", "create", "desk-01", "--vcpus", "1", "--memory", "1GiB", "--gpu", "any"]);
  },
});

async function atAccess(user = "alice") {
  const page = await stage.as(user);
  await page.goto("/access");
  await heading(page, "Access");
  return page;
}

/** What proves to the console that a form is the session's own. */
const proof = (page) => page.locator("form[action='/logout'] input[name=csrf]").getAttribute("value");

/** The forms of a page that change something. */
const changes = (page) => page.$$eval("form", (forms) =>
  forms.filter((form) => form.method !== "get").map((form) => form.getAttribute("action")));

test("a user is added, gets another role, and is let in once by a link that is shown once", async () => {
  const page = await atAccess();
  const form = page.locator("form").filter({ hasText: "New user" });
  await form.getByLabel("Name").fill("carol");
  await form.getByLabel("Role").selectOption("viewer");
  await form.getByRole("button", { name: "Add user" }).click();
  await row(page, "carol").getByText("none; only a link lets them in").waitFor();

  await page.getByLabel("Role of carol").selectOption("operator");
  await row(page, "carol").getByRole("button", { name: "Set" }).first().click();
  await page.waitForURL("**/access");
  assert.match(await stage.daemon.tranche(["user", "list"]), /carol +operator/);

  await row(page, "carol").getByRole("button", { name: "One-time link" }).click();
  await says(page, "Copy it now: it is shown only here.");
  const link = await page.locator(".secret").textContent();
  assert.ok(link.startsWith(`${stage.daemon.origin}/login?link=`), link);
  const secret = new URL(link).searchParams.get("link");
  await page.getByRole("link", { name: "Done" }).click();
  await heading(page, "Access");
  assert.ok(!(await page.content()).includes(secret));

  const carol = await stage.open();
  await carol.goto(link);
  await press(carol, "Log in with this link");
  await carol.locator("header").getByText("operator").waitFor();
});

test("a user who is forgotten is out at once", async () => {
  await stage.daemon.createUser("dora", "viewer");
  const dora = await stage.as("dora");
  const page = await atAccess();
  await row(page, "dora").getByText("Delete", { exact: true }).click();
  await press(page, "Delete dora for good");
  await row(page, "dora").waitFor({ state: "detached" });
  await dora.goto("/vms");
  await heading(dora, "Log in");
});

test("a password that is too weak is refused with what it would have to be", async () => {
  const page = await atAccess();
  const form = page.locator("form").filter({ hasText: "New user" });
  await form.getByLabel("Name").fill("eve");
  await form.getByLabel("Password").fill("short");
  await form.getByRole("button", { name: "Add user" }).click();
  await page.getByRole("alert").getByText("fewer than 10 characters").first().waitFor();
  assert.ok(!(await page.content()).includes("value=\"short\""));
});

test("a token lets a program in from when it is shown, once, until it is revoked", async () => {
  const page = await atAccess();
  const form = page.locator("form").filter({ hasText: "New token" });
  await form.getByLabel("Name").fill("backup");
  await form.getByRole("button", { name: "Make token" }).click();
  await heading(page, "New token");
  const secret = await page.locator(".secret").textContent();
  const program = await stage.open();
  const ask = async () => (await program.request.get("/v1/vms", { headers: { authorization: `Bearer ${secret}` } })).status();
  assert.equal(await ask(), 200);

  await page.getByRole("link", { name: "Done" }).click();
  await row(page, "backup").waitFor();
  assert.ok(!(await page.content()).includes(secret));
  await row(page, "backup").getByText("Revoke", { exact: true }).click();
  await press(page, "Revoke backup for good");
  await says(page, "There are no tokens.");
  assert.equal(await ask(), 401);
});

test("the audit log says what alice did, from where and what became of it, and no secret", async () => {
  const page = await stage.as("alice");
  await page.goto("/gpus/node1/0000:42:00.0");
  await page.getByRole("radio", { name: "Give it whole to one VM" }).check();
  await press(page, "Preview");
  await press(page, "Apply exactly this");
  await heading(page, "NVIDIA A16 0000:42:00.0");
  await page.goto("/audit");
  const entry = page.getByRole("row").filter({ hasText: "PUT /v1/gpus/node1/0000:42:00.0/mode" });
  assert.equal(await entry.count(), 1, "a preview is no deed");
  const cells = await entry.getByRole("cell").allInnerTexts();
  assert.deepEqual([cells[0], cells[1], cells[2], cells[4]], ["alice", "127.0.0.1", "node1", "202"]);
  assert.match(await entry.locator("pre").textContent(), /"passthrough"/);
  assert.doesNotMatch(await page.locator("main").textContent(), /"(password|secret)":"(?!\(hidden\))/);
});

test("whoever only looks is shown no form that changes anything, but the one that leads out", async () => {
  const page = await stage.as("victor");
  for (const path of Object.values(PAGES)) {
    const answer = await page.goto(path);
    assert.deepEqual(await changes(page), ["/logout"], path);
    const isForAdmins = ["/access", "/audit"].includes(path);
    assert.equal(answer.status(), isForAdmins ? 403 : 200, path);
  }
  assert.equal(await page.getByRole("link", { name: "Audit log" }).count(), 0);
  assert.equal(await page.getByRole("link", { name: "New VM" }).count(), 0);
});

test("an operator is shown what concerns VMs, and not what concerns GPUs and people", async () => {
  const page = await stage.as("olga");
  await page.goto("/vms/desk-01");
  assert.ok((await changes(page)).includes("/vms/desk-01/start"));
  await page.goto("/partition");
  assert.deepEqual(await changes(page), ["/logout"]);
  await says(page, "Only administrators change how GPUs are split.");
  assert.equal((await page.goto("/access")).status(), 403);
});

test("a form that is sent by hand is refused to whoever may not, and does nothing", async () => {
  const page = await stage.as("victor");
  const csrf = await proof(page);
  const before = await Promise.all(["gpu", "vm", "user", "token"].map((what) => stage.daemon.tranche([what, "list"])));
  const forms = {
    "/partition": { gpu: "node1/0000:43:00.0", count: "4 Q", seen: "x" },
    "/gpus/node1/0000:43:00.0/mode": { mode: "passthrough", seen: "x" },
    "/vms/new": { name: "mine", vcpus: "1", memory_mib: "1024", gpu: "none", seen: "x" },
    "/vms/desk-01/start": {},
    "/vms/desk-01/delete": { seen: "x" },
    "/hosts/node1/drain": { seen: "x" },
    "/hosts/node1/confirm-down": { seen: "x" },
    "/failover/pause": { seen: "x" },
    "/access/users": { name: "victor", role: "admin" },
    "/access/users/alice/link": {},
    "/access/users/alice/delete": {},
    "/access/tokens": { token: "mine", token_role: "admin", days: "1" },
  };
  for (const [path, fields] of Object.entries(forms)) {
    const answer = await page.request.post(path, { form: { csrf, ...fields } });
    assert.equal(answer.status(), 403, path);
    assert.match(await answer.text(), /This is for the role/, path);
  }
  const after = await Promise.all(["gpu", "vm", "user", "token"].map((what) => stage.daemon.tranche([what, "list"])));
  assert.deepEqual(after, before);
});

test("a form of another site, or without the session's proof, is refused even to an administrator", async () => {
  const page = await stage.as("alice");
  const csrf = await proof(page);
  const send = async (form, headers = {}) => (await page.request.post("/vms/desk-01/start", { form, headers })).status();
  assert.equal(await send({}), 403);
  assert.equal(await send({ csrf: "" }), 403);
  assert.equal(await send({ csrf: `${csrf}x` }), 403);
  for (const site of ["cross-site", "same-site", "none"]) assert.equal(await send({ csrf }, { "sec-fetch-site": site }), 403, site);
  assert.match(await stage.daemon.tranche(["vm", "list"]), /desk-01 +stopped/);
});

test("the session of a browser does not open the REST interface", async () => {
  const page = await stage.as("alice");
  assert.equal((await page.request.get("/v1/vms")).status(), 401);
});
