// Where a test file plays: a daemon, a browser, and people in front of it.
//
// Every page that a test opens is watched. An error on its console or in a script, a request that leaves the console's own
// address, or something that the page's policy kept from happening fails the test in the end, whatever else it looked at.

import assert from "node:assert/strict";
import { after, afterEach, before } from "node:test";

import { chromium } from "playwright-core";

import { startCluster, startDaemon } from "./daemon.mjs";

const CHROMIUM = process.env.CHROMIUM ?? "/usr/bin/chromium";
/** The browser itself asks nobody for anything; tests may run as root, and without a GPU. */
const ARGUMENTS = [
  "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
  "--disable-background-networking", "--disable-component-update", "--disable-sync",
];
const PATIENCE_MS = 30_000;

/**
 * Sets the stage for a file of tests. `users` are names and roles; more than one of `hosts` are a cluster; `furnish` is done to the
 * daemon before anybody looks, and `begin` is what people do before the first test.
 */
export function setStage({ users = { alice: "admin" }, hosts = 1, preset = "nvidia", furnish, begin } = {}) {
  const stage = new Stage();
  before(async () => {
    stage.daemon = await (hosts > 1 ? startCluster({ hosts, preset }) : startDaemon({ preset }));
    for (const [user, role] of Object.entries(users)) await stage.daemon.createUser(user, role);
    await furnish?.(stage.daemon);
    stage.browser = await chromium.launch({ executablePath: CHROMIUM, args: ARGUMENTS });
    await begin?.(stage);
  });
  afterEach(() => stage.clear());
  after(async () => {
    await stage.browser?.close();
    await stage.daemon?.end();
  });
  return stage;
}

class Stage {
  daemon;
  browser;
  #visits = [];

  /** A browser of its own, in which nobody is logged in, at this daemon. */
  async open({ daemon = this.daemon, ...options } = {}) {
    const context = await this.browser.newContext({
      baseURL: daemon.origin, ignoreHTTPSErrors: true, viewport: { width: 1280, height: 900 }, reducedMotion: "reduce",
      ...options,
    });
    context.setDefaultTimeout(PATIENCE_MS);
    const troubles = watch(context, daemon.origin);
    this.#visits.push({ context, troubles, forgiven: [] });
    return context.newPage();
  }

  /** A browser of its own, in which this user is logged in, at the overview. */
  async as(user, options = {}) {
    const page = await this.open(options);
    await page.goto(await this.daemon.link(user));
    await page.getByRole("button", { name: "Log in with this link" }).click();
    await heading(page, "Overview");
    return page;
  }

  /** What the test itself brings about, and a browser tells as an error. */
  forgive(page, pattern) {
    this.#visits.find(({ context }) => context === page.context()).forgiven.push(pattern);
  }

  /** Closes what a test opened, and tells what should not have happened in it. */
  async clear() {
    const visits = this.#visits.splice(0);
    await Promise.all(visits.map(({ context }) => context.close()));
    const told = visits.flatMap(({ troubles, forgiven }) =>
      troubles.filter((trouble) => !forgiven.some((pattern) => pattern.test(trouble))));
    assert.deepEqual(told, [], "nothing goes wrong beside what the test looks at");
  }
}

function watch(context, origin) {
  const troubles = [];
  const refused = new Set();
  context.on("response", (response) => {
    if (response.status() >= 400 && response.request().isNavigationRequest()) refused.add(response.url());
  });
  context.on("console", (message) => {
    // Chromium reports a page that says "no" as a resource that did not load. That it says so is what tests look at.
    const isRefusal = message.text().startsWith("Failed to load resource") && refused.has(message.location().url);
    if (["error", "warning"].includes(message.type()) && !isRefusal) {
      troubles.push(`${message.type()} on the console: ${message.text()} (${message.location().url})`);
    }
  });
  context.on("weberror", (error) => troubles.push(`error in a script: ${error.error().message}`));
  context.on("dialog", (dialog) => {
    troubles.push(`dialog: ${dialog.message()}`);
    dialog.dismiss();
  });
  context.on("request", (request) => {
    const url = new URL(request.url());
    if (url.protocol !== "data:" && url.origin !== origin) troubles.push(`request to ${url.origin}`);
  });
  return troubles;
}

/** What the browser and htmx tell where there is no daemon any more. */
export const SILENCE = /^error on the console: (Failed to load resource: net::ERR_|\[object Event\]|htmx:(sendError|afterRequest))/;

/** Waits until a page has this heading. */
export async function heading(page, name) {
  await page.getByRole("heading", { level: 1, name, exact: true }).waitFor();
}

/** Waits until a text is there. */
export async function says(page, text) {
  await page.locator("main").getByText(text).first().waitFor();
}

/** The row of a table that begins with this text. */
export function row(page, name) {
  return page.getByRole("row").filter({ has: page.getByRole("rowheader", { name, exact: true }) });
}

/** Presses a button by what it says. */
export async function press(page, name) {
  await page.getByRole("button", { name, exact: true }).click();
}
