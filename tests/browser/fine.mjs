// Whether a page is fine: for programs that read it aloud, in the dark, and on a telephone.
//
// SCREENSHOTS names a directory into which each page is drawn as well.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { join } from "node:path";

const axe = createRequire(import.meta.url)("axe-core").source;
export const SCREENSHOTS = process.env.SCREENSHOTS;

const DESK = { width: 1280, height: 900 };
const PHONE = { width: 390, height: 844 };

/** What a program that reads pages aloud would stumble over, the grave part of it. */
async function obstacles(page) {
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
  return violations
    .filter(({ id, impact }) => ["serious", "critical"].includes(impact))
    .map(({ id, impact, nodes }) => `${impact}: ${id}: ${nodes.map(({ html }) => html.slice(0, 120)).slice(0, 3).join(" | ")}`);
}

/** Each page is drawn once, and the first one in every look. */
const looks = (name) => [
  { colorScheme: "light", viewport: DESK, drawn: name },
  { colorScheme: "dark", viewport: DESK, drawn: name === "overview" && "overview-dark" },
  { colorScheme: "light", viewport: PHONE, drawn: name === "overview" && "overview-phone" },
  { colorScheme: "dark", viewport: PHONE },
];

/** Draws a page as it is now, if screenshots are wanted. */
export async function draw(page, name) {
  if (!SCREENSHOTS) return;
  await page.mouse.move(0, 0);
  await page.screenshot({ path: join(SCREENSHOTS, `${name}.png`), animations: "disabled" });
}

/** Looks at a page in each way, and draws it. */
export async function isFine(page, name) {
  const told = [];
  for (const { colorScheme, viewport, drawn } of looks(name)) {
    await page.emulateMedia({ colorScheme });
    await page.setViewportSize(viewport);
    const found = await obstacles(page);
    const width = await page.evaluate(() => document.documentElement.scrollWidth);
    if (width > viewport.width) found.push(`it is ${width} px wide`);
    told.push(...found.map((obstacle) => `${colorScheme}, ${viewport.width} px: ${obstacle}`));
    if (drawn) await draw(page, drawn);
  }
  assert.deepEqual(told, []);
}
