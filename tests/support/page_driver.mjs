// Drives Chromium for tests/support/playwright.py: one line of JSON in is one thing to do, one line
// out is what came of it. `code` is the body of an async function of (page, context, axe).
import { createInterface } from "node:readline";
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import { chromium } from "playwright-core";

const [executablePath, ...args] = process.argv.slice(2);
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const browser = await chromium.launch({ executablePath, args });
const pages = new Map();
const AsyncFunction = (async () => {}).constructor;

async function open({ options }) {
  const context = await browser.newContext(options);
  context.setDefaultTimeout(0); // the test's own guard bounds it
  return add(await context.newPage());
}

function add(page) {
  const said = [];
  page.on("console", (message) => said.push(`${message.type()}: ${message.text()}`));
  page.on("pageerror", (error) => said.push(`uncaught: ${error.message}`));
  pages.set(String(pages.size), { page, said });
  return String(pages.size - 1);
}

async function perform(asked) {
  if (asked.open) return open(asked);
  if (asked.close) return Promise.all([...pages.values()].map(({ page }) => page.context().close()));
  const { page, said } = pages.get(asked.page);
  if (asked.said) return said.splice(0);
  return new AsyncFunction("page", "context", "axe", "arg", asked.code)(page, page.context(), axe, asked.arg);
}

for await (const line of createInterface({ input: process.stdin })) {
  const asked = JSON.parse(line);
  perform(asked).then(
    (value) => console.log(JSON.stringify({ id: asked.id, value: value ?? null })),
    (error) => console.log(JSON.stringify({ id: asked.id, error: String(error.stack ?? error) })),
  );
}
await browser.close();
