// Runs the Worker of wrangler.toml in workerd, through miniflare. Started by local/host/worker_stack.py.
//
// The configuration (host_config there) comes as JSON in LOCAL_WORKER_HOST. When standard input closes,
// the guardian that started this process has ended, so this process ends too.

import { createServer } from "node:http";
import { readdir, readFile, rename, writeFile } from "node:fs/promises";
import { dirname, extname, join, relative } from "node:path";
import process from "node:process";
import { convertV4MiniflareOptions, Log, LogLevel, Miniflare } from "miniflare";
import { unstable_getMiniflareWorkerOptions } from "wrangler";
import { createControlServer, DEAD_LETTERS, KV_LOADER } from "./control_server.mjs";

const DEAD_LETTER_QUEUE = "skill-publish-dead-letter";
const KV_LOADER_SCRIPT = new URL("./kv_loader.mjs", import.meta.url);

const { LOCAL_WORKER_HOST, ...inherited } = process.env;
const config = JSON.parse(LOCAL_WORKER_HOST);
// wrangler looks for the required secrets here; workerd itself must not inherit the configuration.
process.env = { ...inherited, ...config.secrets };

// workerd accepts a runtime bundle of our own only with these; see docs/local-runtime.md.
const DEVELOPMENT_FLAGS = ["python_workers_development", "experimental"];

async function* filesBelow(folder) {
  for (const entry of await readdir(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) {
      if (entry.name !== "__pycache__") yield* filesBelow(path);
    } else {
      yield path;
    }
  }
}

// The `[[rules]]` of wrangler.toml and wrangler's own, as far as they go by extension ("**/*.json").
function typesByExtension(rules) {
  const types = new Map([[".py", "PythonModule"]]);
  for (const { type, include } of rules) {
    for (const glob of include) {
      const extension = /^\*\*\/\*(\.\w+)$/.exec(glob)?.[1];
      if (extension && !types.has(extension)) types.set(extension, type);
    }
  }
  return types;
}

// The Worker's files as wrangler attaches them: the entry point first, the modules and data beside
// it, and everything in python_modules as data (JavaScript of the SDK as modules).
async function collectModules(main, rules, pythonModules) {
  const types = typesByExtension(rules);
  const root = dirname(main);
  const read = async (path, name, type) => ({ type, path: join(root, name), contents: await readFile(path) });
  const modules = [];
  for await (const path of filesBelow(root)) {
    const name = relative(root, path);
    const type = types.get(extname(path));
    if (type === undefined) continue;
    const module = await read(path, name, type);
    if (path === main) modules.unshift(module);
    else modules.push(module);
  }
  for await (const path of filesBelow(pythonModules)) {
    const name = relative(pythonModules, path);
    if (extname(name) === ".pyc") continue;
    const script = name.startsWith("workers/") && [".js", ".mjs"].includes(extname(name));
    modules.push(await read(path, join("python_modules", name), script ? "ESModule" : "Data"));
  }
  return { modules, modulesRoot: root };
}

// With `slowKv` the marketplace reaches its KV through SlowKv of kv_loader.mjs.
function slowedDown({ kvNamespaces, ...worker }) {
  const { SUBMISSIONS_KV: _, ...others } = kvNamespaces;
  const SUBMISSIONS_KV = { name: KV_LOADER, entrypoint: "SlowKv" };
  return { ...worker, kvNamespaces: others, serviceBindings: { ...worker.serviceBindings, SUBMISSIONS_KV } };
}

async function miniflareOptions() {
  const { workerOptions, main } = unstable_getMiniflareWorkerOptions(config.wranglerConfig);
  const { modulesRules, ...worker } = workerOptions;
  return convertV4MiniflareOptions({
    host: "127.0.0.1",
    port: config.port,
    cf: false, // no look-up of this machine's location
    log: new Log(LogLevel.WARN),
    unsafeTriggerHandlers: true,
    resourcePersistencePath: config.persistTo,
    workers: [
      {
        ...(config.slowKv ? slowedDown(worker) : worker),
        ...(await collectModules(main, modulesRules, config.pythonModules)),
        compatibilityFlags: [...(worker.compatibilityFlags ?? []), ...DEVELOPMENT_FLAGS],
        // Queues are kept in memory: these begin empty, whatever was in those of the last start.
        bindings: { ...worker.bindings, ...config.secrets, QUEUES_BEGAN_AT: new Date().toISOString() },
      },
      {
        name: KV_LOADER,
        modules: [{ type: "ESModule", path: "kv_loader.mjs", contents: await readFile(KV_LOADER_SCRIPT) }],
        compatibilityDate: worker.compatibilityDate,
        kvNamespaces: worker.kvNamespaces,
        queueProducers: { [DEAD_LETTERS]: DEAD_LETTER_QUEUE },
      },
    ],
  });
}

const miniflare = new Miniflare(await miniflareOptions());
const control = createServer(createControlServer(miniflare, config.controlToken));
let stopping = false;

async function stop() {
  if (stopping) return;
  stopping = true;
  control.close();
  control.closeAllConnections();
  await miniflare.dispose();
  process.exit(0);
}

process.stdin.on("end", stop).on("error", stop).resume();
process.on("SIGTERM", stop);
process.on("SIGINT", stop);

const url = await miniflare.ready;
await new Promise((resolve) => control.listen(0, "127.0.0.1", resolve));

// Written whole, then renamed: a reader never sees half of it.
await writeFile(
  `${config.readyFile}.tmp`,
  JSON.stringify({ url: url.origin, control: `http://127.0.0.1:${control.address().port}` }),
);
await rename(`${config.readyFile}.tmp`, config.readyFile);
