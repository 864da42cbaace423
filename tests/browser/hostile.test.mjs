// Text of others stays text: wherever something that somebody typed comes back, it is shown and does not run.

import assert from "node:assert/strict";
import { test } from "node:test";

import { heading, press, setStage } from "./stage.mjs";

const HOSTILE = `"><script>window.hit = true</script><img src=x onerror="window.hit = true"><a href="javascript:window.hit = true">`;
const encoded = encodeURIComponent(HOSTILE);

const stage = setStage({
  users: { alice: "admin" },
  furnish: (daemon) => daemon.tranche(["vm", "create", "desk-01", "--vcpus", "1", "--memory", "1GiB"]),
});

/** A page is the console's own, in every element. */
async function isHarmless(page, what) {
  const found = await page.evaluate(() => ({
    hit: window.hit,
    foreign: [...document.querySelectorAll("script:not([src^='/assets/']), img, iframe, object, embed, base")].map((element) => element.outerHTML),
    handlers: [...document.querySelectorAll("*")].flatMap((element) => element.getAttributeNames().filter((name) => name.startsWith("on"))),
    links: [...document.querySelectorAll("[href], [action]")]
      .map((element) => element.getAttribute("href") ?? element.getAttribute("action"))
      .filter((target) => !/^[/#]/.test(target) || target.startsWith("//")),
  }));
  assert.deepEqual(found, { hit: undefined, foreign: [], handlers: [], links: [] }, what);
}

test("queries that are shown again stay text", async () => {
  const page = await stage.as("alice");
  const queries = {
    "/vms": ["text", "state", "host", "page"],
    "/gpus": ["text", "host", "page"],
    "/findings": ["severity", "page"],
    "/capacity": ["without"],
    "/operations": ["page"],
    "/partition": ["gpu"],
    "/vms/desk-01": ["asked", "why"],
    "/hosts/node1": ["asked"],
    "/login": ["next", "link", "user"],
  };
  for (const [path, names] of Object.entries(queries)) {
    for (const name of names) {
      const answer = await page.goto(`${path}?${name}=${encoded}`);
      assert.equal(answer.status(), 200, `${path}?${name}`);
      await isHarmless(page, `${path}?${name}`);
    }
  }
  await page.goto(`/vms?text=${encoded}`);
  assert.equal(await page.getByLabel("Text").inputValue(), HOSTILE, "it is shown as it was typed");
});

test("paths that lead nowhere are named and stay text", async () => {
  const page = await stage.as("alice");
  const paths = ["/", "/vms/", "/hosts/", "/gpus/node1/", "/operations/", "/assets/", "/gpus/"].map((path) => path + encoded);
  for (const path of [...paths, "/%00", "/%FF%FE", "/vms/%2e%2e%2fetc", `/${"a".repeat(3000)}`, "/vms/new/x/y"]) {
    const answer = await page.goto(path);
    assert.ok([400, 404, 405, 414].includes(answer.status()), `${path}: ${answer.status()}`);
    await isHarmless(page, path);
  }
  await page.goto(`/${encoded}`);
  await heading(page, "That did not work");
});

test("fields that are refused are named and stay text", async () => {
  const page = await stage.as("alice");
  const fields = [
    ["/vms/new", "Name"], ["/vms/new", "Guest system"], ["/vms/new", "Disks"], ["/vms/new", "Networks"],
    ["/vms/new", "cloud-init user data"],
  ];
  for (const [path, label] of fields) {
    await page.goto(path);
    await page.getByLabel("Name").fill("hostile");
    await page.getByLabel(label).fill(HOSTILE);
    await press(page, "Preview");
    await page.waitForLoadState();
    await isHarmless(page, label);
  }
  await page.goto("/vms/new");
  await page.getByLabel("Name").fill("hostile");
  await page.getByLabel("What it asks for").selectOption("profile");
  await page.getByLabel("Profile").fill(HOSTILE);
  await press(page, "Preview");
  await page.waitForLoadState();
  await isHarmless(page, "Profile");

  await page.goto("/access");
  const form = page.locator("form").filter({ hasText: "New user" });
  await form.getByLabel("Name").fill(HOSTILE);
  await form.getByRole("button", { name: "Add user" }).click();
  await heading(page, "That did not work");
  await isHarmless(page, "New user");
});

test("the name with which somebody fails to log in stays text, there and in the audit log", async () => {
  const stranger = await stage.open();
  await stranger.goto("/login");
  await stranger.getByLabel("Name").fill(HOSTILE);
  await stranger.getByLabel("Password").fill(HOSTILE);
  await press(stranger, "Log in");
  await stranger.getByRole("alert").waitFor();
  await isHarmless(stranger, "the way in");

  const page = await stage.as("alice");
  await page.goto("/audit");
  await page.getByText(HOSTILE.slice(0, 40)).first().waitFor();
  await isHarmless(page, "the audit log");
});

test("the cloud-init data of a VM, which may be anything, stays text in the audit log", async () => {
  const page = await stage.as("alice");
  await page.goto("/vms/new");
  await page.getByLabel("Name").fill("clouded");
  await page.getByLabel("What it asks for").selectOption("none");
  await page.getByLabel("cloud-init user data").fill(`#cloud-config\n# ${HOSTILE}`);
  await press(page, "Preview");
  await heading(page, "New VM clouded");
  await isHarmless(page, "the preview");
  await press(page, "Make it");
  await heading(page, "clouded");
  await page.goto("/audit");
  await isHarmless(page, "the audit log");
});

test("every answer tells browsers that nothing but the console's own files may run, whatever it is", async () => {
  const page = await stage.as("alice");
  const style = await page.locator("link[rel=stylesheet]").getAttribute("href");
  for (const path of ["/", "/login", "/nowhere", "/vms/nobody", style]) {
    const answer = await page.request.get(path);
    const policy = answer.headers()["content-security-policy"];
    assert.match(policy, /default-src 'none'/, path);
    assert.match(policy, /script-src 'self'(;|$)/, path);
    assert.match(policy, /frame-ancestors 'none'/, path);
    assert.doesNotMatch(policy, /unsafe/, path);
    assert.equal(answer.headers()["x-content-type-options"], "nosniff", path);
  }
});
