// Logging in through an issuer: from the console to it and back, as a browser does it.

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { after, test } from "node:test";

import { startIssuer } from "./issuer.mjs";
import { heading, press, setStage } from "./stage.mjs";

let issuer;
const stage = setStage({
  async furnish(daemon) {
    // The issuer shows the certificate that the daemon has made for its own address.
    const made = (name) => readFile(join(daemon.directory, "state", "console", name), "utf8");
    issuer = await startIssuer({ cert: await made("certificate.pem"), key: await made("key.pem") });
    daemon.settings = [
      `[oidc]`, `issuer = "${issuer.url}"`, `name = "Example SSO"`, `client_id = "tranche"`,
      `authority = "${join(daemon.directory, "state", "console", "certificate.pem")}"`,
      `[oidc.roles]`, `"gpu-operators" = "operator"`,
    ];
    await daemon.stop();
    await daemon.start();
  },
});
after(() => issuer?.end());

/** A browser that may also go to the issuer. */
async function open(options) {
  const page = await stage.open(options);
  stage.forgive(page, new RegExp(`^request to ${issuer.url}$`));
  return page;
}

async function choose(page, person) {
  await page.getByRole("link", { name: "Log in with Example SSO", exact: true }).click();
  await heading(page, "Who are you?");
  await press(page, person);
}

for (const javaScriptEnabled of [true, false]) {
  test(`whoever the issuer vouches for comes to the page that they wanted, and leaves, ${javaScriptEnabled ? "with" : "without"} scripts`, async () => {
    const page = await open({ javaScriptEnabled });
    await page.goto("/vms?state=running");
    await heading(page, "Log in");
    await choose(page, "alice");
    await heading(page, "VMs");
    assert.equal(page.url(), `${stage.daemon.origin}/vms?state=running`);
    const who = page.locator("header");
    await who.getByText("alice (via Example SSO)").waitFor();
    await who.getByText("operator", { exact: true }).waitFor();
    const cookies = (await page.context().cookies()).map(({ name, sameSite }) => [name, sameSite]);
    assert.deepEqual(cookies, [["__Host-tranche-session", "Strict"]]);
    await page.goto("/access");
    await heading(page, "That did not work");
    await press(page, "Log out");
    await heading(page, "Log in");
    await page.goto("/vms");
    await heading(page, "Log in");
  });
}

test("whoever is in no group that has a role is told so, and stays outside", async () => {
  const page = await open();
  await page.goto("/login");
  await choose(page, "mallory");
  await page.getByRole("alert").getByText("mallory (via Example SSO) is in no group that has a role here.").waitFor();
  assert.deepEqual(await page.context().cookies(), []);
  await page.goto("/vms");
  await heading(page, "Log in");
});

test("an answer of the issuer opens nothing in another browser", async () => {
  const page = await open();
  await page.goto("/login");
  await choose(page, "alice");
  await heading(page, "Overview");
  const thief = await open();
  await thief.goto(issuer.answers.at(-1));
  await thief.getByRole("alert").getByText("This login was begun in another browser").waitFor();
  assert.deepEqual(await thief.context().cookies(), []);
});

test("when the issuer is gone, that is told, and a link still lets its user in", async () => {
  issuer.end();
  // What it told about itself is remembered for a while.
  await stage.daemon.stop();
  await stage.daemon.start();
  const page = await open();
  await page.goto("/login");
  await page.getByRole("link", { name: "Log in with Example SSO", exact: true }).click();
  await page.getByRole("alert").getByText("The issuer Example SSO gives no answer that could be used").waitFor();
  await page.goto(await stage.daemon.link("alice"));
  await press(page, "Log in with this link");
  await heading(page, "Overview");
  await page.locator("header").getByText("alice", { exact: true }).waitFor();
});
