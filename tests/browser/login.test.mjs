// The way in and out.

import assert from "node:assert/strict";
import { test } from "node:test";

import { heading, press, says, setStage } from "./stage.mjs";

const PASSWORD = "correct horse battery";

const stage = setStage({
  users: { alice: "admin", bob: "viewer" },
  furnish: (daemon) => daemon.setPassword("bob", PASSWORD),
});

async function enter(page, user, password) {
  await page.getByLabel("Name").fill(user);
  await page.getByLabel("Password").fill(password);
  await press(page, "Log in");
}

test("a one-time link lets its user in once, and says where another one comes from", async () => {
  const link = await stage.daemon.link("alice");
  const first = await stage.open();
  await first.goto(link);
  await press(first, "Log in with this link");
  await heading(first, "Overview");
  await first.locator("header").getByText("alice").waitFor();

  const second = await stage.open();
  await second.goto(link);
  await press(second, "Log in with this link");
  const alert = second.getByRole("alert");
  await alert.getByText("This link was used already, or its time is over.").waitFor();
  await alert.getByText("tranche user link").waitFor();
  await second.goto("/");
  await heading(second, "Log in");
});

test("a link is not spent by whoever only looks at where it leads", async () => {
  const link = await stage.daemon.link("alice");
  const mail = await stage.open();
  await mail.goto(link);
  const page = await stage.open();
  await page.goto(link);
  await press(page, "Log in with this link");
  await heading(page, "Overview");
});

test("a password lets in, and a wrong one does not", async () => {
  const page = await stage.open();
  await page.goto("/login");
  await enter(page, "bob", "not the password");
  await page.getByRole("alert").getByText("No user has this name and this password.").waitFor();
  assert.equal(await page.getByLabel("Name").inputValue(), "bob", "the name need not be typed again");
  assert.equal(await page.getByLabel("Password").inputValue(), "", "a password is never sent back");
  await enter(page, "bob", PASSWORD);
  await heading(page, "Overview");
});

test("an unknown user is told the same as a wrong password", async () => {
  const page = await stage.open();
  await page.goto("/login");
  await enter(page, "nobody", PASSWORD);
  await page.getByRole("alert").getByText("No user has this name and this password.").waitFor();
});

test("logging in leads back to the page that was asked for", async () => {
  const page = await stage.open();
  await page.goto("/vms?state=running");
  await heading(page, "Log in");
  await enter(page, "bob", PASSWORD);
  await heading(page, "VMs");
  assert.equal(new URL(page.url()).search, "?state=running");
});

test("logging in never leads to another site", async () => {
  for (const next of ["//evil.example/", "https://evil.example/", "/\\evil.example", "javascript:alert(1)"]) {
    const page = await stage.open();
    await page.goto(`/login?next=${encodeURIComponent(next)}`);
    await enter(page, "bob", PASSWORD);
    await heading(page, "Overview");
    assert.equal(page.url(), `${stage.daemon.origin}/`);
  }
});

test("logging out ends the session, also for whoever kept its cookie", async () => {
  const page = await stage.as("alice");
  const kept = await page.context().storageState();
  await press(page, "Log out");
  await heading(page, "Log in");
  await page.goto("/vms");
  await heading(page, "Log in");
  const other = await stage.open({ storageState: kept });
  await other.goto("/vms");
  await heading(other, "Log in");
});

test("the session's cookie is for this host over TLS, and for no script", async () => {
  const page = await stage.as("alice");
  const [cookie, ...others] = await page.context().cookies();
  assert.deepEqual(others, []);
  assert.ok(cookie.name.startsWith("__Host-"), cookie.name);
  assert.deepEqual(
    { httpOnly: cookie.httpOnly, secure: cookie.secure, sameSite: cookie.sameSite, path: cookie.path },
    { httpOnly: true, secure: true, sameSite: "Strict", path: "/" },
  );
});

test("a new password ends the sessions that there are", async () => {
  const page = await stage.as("bob");
  await stage.daemon.setPassword("bob", PASSWORD);
  await page.goto("/vms");
  await heading(page, "Log in");
  await says(page, "Log in");
});
