// Daemons for tests: the real program with a made-up host, each in a directory of its own and on ports of its own.
//
// TRANCHED and TRANCHE name the programs; else those that `cargo build` makes are taken.

import { spawn } from "node:child_process";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

const built = (name) => fileURLToPath(new URL(`../../target/debug/${name}`, import.meta.url));
const TRANCHED = process.env.TRANCHED ?? built("tranched");
const TRANCHE = process.env.TRANCHE ?? built("tranche");

const READY_MS_MAX = 120_000;
const END_MS_MAX = 15_000;
/** What the daemon says when its console is there. */
const SERVED = "the console is served over HTTPS";

/** Whatever a test forgets or is killed in the middle of: no daemon is left behind. */
const running = new Set();
process.on("exit", () => running.forEach((child) => child.kill("SIGKILL")));

/** Starts a daemon that stands alone, and waits until its console is there. */
export async function startDaemon({ preset = "nvidia", host = "node1" } = {}) {
  const daemon = new Daemon(host, preset, await mkdtemp(join(tmpdir(), "tranche-browser-")));
  return orEnd(daemon, () => daemon.start());
}

/** Starts as many daemons and makes them one cluster. The first one is the one that tests ask. */
export async function startCluster({ hosts = 3, preset = "nvidia" } = {}) {
  const first = await startDaemon({ preset, host: "node1" });
  return orEnd(first, async () => {
    // To begin a cluster, or to get into one, a daemon starts itself anew.
    await first.restarts(["cluster", "init"]);
    for (let number = 2; number <= hosts; number += 1) {
      const other = await startDaemon({ preset, host: `node${number}` });
      first.others.push(other);
      const token = await first.tranche(["--quiet", "cluster", "token", "create"]);
      await other.restarts(["cluster", "join", token.trim()]);
    }
  });
}

async function orEnd(daemon, begin) {
  try {
    await begin();
    return daemon;
  } catch (error) {
    await daemon.end();
    throw error;
  }
}

/** Below those that the kernel gives to connections, of which a browser opens many: somebody listens there only later, and again. */
const PORTS = { first: 10_000, count: 10_000 };
let tried = process.pid * 64;

/** Ports that nobody uses; tests that begin at once look in different places. */
export async function freePorts(count) {
  const ports = [];
  while (ports.length < count) {
    const port = PORTS.first + (tried++ % PORTS.count);
    const server = createServer();
    const isFree = await new Promise((done) => server.once("error", () => done(false)).listen(port, "127.0.0.1", () => done(true)));
    if (!isFree) continue;
    await new Promise((done) => server.close(done));
    ports.push(port);
  }
  return ports;
}

class Daemon {
  #child;
  #lines = [];
  #served = 0;
  #waiting = new Set();
  #over = false;

  constructor(host, preset, directory) {
    Object.assign(this, { host, preset, directory, others: [], origin: undefined, settings: [] });
  }

  /** Starts it, or starts it again at the address that it had; with `settings`, if there are more. */
  async start() {
    const config = join(this.directory, "tranched.toml");
    const [port, clientPort, peerPort, consolePort] = await freePorts(4);
    await writeFile(config, [
      `host = "${this.host}"`,
      `state_dir = "${join(this.directory, "state")}"`,
      `socket = "${this.#socket()}"`,
      `catalogue_dir = "${join(this.directory, "catalogue.d")}"`,
      `[cluster]`, `address = "127.0.0.1"`, `port = ${port}`,
      `[etcd]`, `run = "child"`, `client_port = ${clientPort}`, `peer_port = ${peerPort}`,
      `[console]`, `listen = "${this.origin ? new URL(this.origin).host : `127.0.0.1:${consolePort}`}"`,
      `[log]`, `format = "json"`, ...this.settings, "",
    ].join("\n"));
    const served = this.#untilServed();
    this.#over = false;
    this.#child = spawn(TRANCHED, ["--config", config, "--fake-host", this.preset], { stdio: ["ignore", "pipe", "pipe"] });
    running.add(this.#child);
    this.#child.on("error", (error) => this.#ended(error.message));
    this.#child.on("exit", (code, signal) => this.#ended(`it ended with ${code ?? signal}`));
    for (const stream of [this.#child.stdout, this.#child.stderr]) {
      createInterface({ input: stream }).on("line", (line) => this.#heard(line));
    }
    await served;
  }

  /** Runs the command on it, and gives what it printed. */
  async tranche(args, input = "") {
    const child = this.begin(args);
    const printed = { stdout: "", stderr: "" };
    for (const name of ["stdout", "stderr"]) {
      child[name].setEncoding("utf8").on("data", (text) => { printed[name] += text; });
    }
    child.stdin.on("error", () => {}).end(input);
    const code = await new Promise((done, failed) => child.on("error", failed).on("close", done));
    if (code !== 0) throw new Error(`tranche ${args.join(" ")}: exit code ${code}\n${printed.stdout}${printed.stderr}`);
    return printed.stdout;
  }

  /** Begins a command that is talked to; the process is whoever's who asked. */
  begin(args) {
    return spawn(TRANCHE, ["--socket", this.#socket(), ...args], { stdio: "pipe" });
  }

  /** Runs a command after which the daemon starts itself anew, and waits until its console is there again. */
  async restarts(args) {
    const served = this.#untilServed();
    await this.tranche(args);
    await served;
  }

  /** The path of a link that lets a user in once. */
  async link(user) {
    const printed = await this.tranche(["--quiet", "user", "link", user]);
    return pathOf(printed);
  }

  /** Makes a user known, and gives the path of the link that lets them in once. */
  async createUser(user, role) {
    return pathOf(await this.tranche(["--quiet", "user", "create", user, "--role", role]));
  }

  async setPassword(user, password) {
    await this.tranche(["user", "password", user, "--stdin"], password);
  }

  /** Ends it and its cluster, and removes all that they wrote. */
  async end() {
    await Promise.all([...this.others, this].map((daemon) => daemon.#end()));
  }

  /** Ends it; what it wrote stays. */
  async stop() {
    const child = this.#child;
    if (child && !this.#over) {
      const exited = new Promise((done) => child.once("exit", done));
      child.kill("SIGTERM");
      const impatience = setTimeout(() => child.kill("SIGKILL"), END_MS_MAX);
      await exited;
      clearTimeout(impatience);
    }
  }

  async #end() {
    await this.stop();
    await rm(this.directory, { recursive: true, force: true });
  }

  #socket() {
    return join(this.directory, "socket");
  }

  #untilServed() {
    const before = this.#served;
    return new Promise((done, failed) => {
      const waits = { check: () => this.#served > before && done(), failed };
      const late = setTimeout(() => failed(this.#trouble("its console did not come")), READY_MS_MAX);
      late.unref();
      this.#waiting.add(waits);
    });
  }

  #heard(line) {
    this.#lines.push(line);
    if (this.#lines.length > 40) this.#lines.shift();
    const { message, address } = fieldsOf(line);
    if (message !== SERVED) return;
    this.origin = `https://${address}`;
    this.#served += 1;
    for (const waits of this.#waiting) waits.check();
  }

  #ended(why) {
    this.#over = true;
    running.delete(this.#child);
    for (const waits of this.#waiting) waits.failed(this.#trouble(why));
  }

  #trouble(why) {
    return new Error(`${TRANCHED} as ${this.host}: ${why}. The last that it said:\n${this.#lines.join("\n")}`);
  }
}

/** The fields of a line of the log. What others say in between, such as libraries of etcd's, may have none. */
function fieldsOf(line) {
  try {
    return JSON.parse(line) ?? {};
  } catch {
    return {};
  }
}

/** The link names the host by the name that people know; tests reach it at its address. */
function pathOf(printed) {
  const url = new URL(printed.trim());
  return url.pathname + url.search;
}
