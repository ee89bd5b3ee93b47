// The control interface, by which tests look into the bindings. local/host/control.py describes it and
// is its client.

import { timingSafeEqual } from "node:crypto";

// The name of the Worker in kv_loader.mjs.
export const KV_LOADER = "kv-loader";

// Its producer of the dead-letter queue, to which the Worker itself does not send.
export const DEAD_LETTERS = "DEAD_LETTERS";

const MAX_PARALLEL = 64;

async function inParallel(items, work) {
  const queue = items[Symbol.iterator]();
  const worker = async () => {
    for (const item of queue) await work(item);
  };
  await Promise.all(Array.from({ length: MAX_PARALLEL }, worker));
}

function operations(miniflare) {
  const kv = (body) => miniflare.getKVNamespace(body.binding, KV_LOADER);
  const askLoader = async (body) => {
    const loader = await miniflare.getWorker(KV_LOADER);
    const response = await loader.fetch("http://loader/", { method: "POST", body: JSON.stringify(body) });
    if (!response.ok) throw new Error(await response.text());
    return await response.json();
  };
  return {
    "/kv/get": async (body) => {
      const { value, metadata } = await (await kv(body)).getWithMetadata(body.key);
      return { value, metadata };
    },
    "/kv/put": askLoader,
    "/kv/pace": askLoader,
    "/kv/delete": async (body) => {
      const namespace = await kv(body);
      await inParallel(body.keys, (key) => namespace.delete(key));
      return { deleted: body.keys.length };
    },
    "/kv/list": async (body) => {
      const batch = await (await kv(body)).list({ prefix: body.prefix, cursor: body.cursor ?? undefined });
      return { keys: batch.keys, cursor: batch.list_complete ? null : batch.cursor };
    },
    "/queue/send": async (body) => {
      const sender = body.binding === DEAD_LETTERS ? KV_LOADER : undefined;
      const producer = await miniflare.getQueueProducer(body.binding, sender);
      for (const message of body.messages) await producer.send(message);
      return { sent: body.messages.length };
    },
    "/scheduled": async (body) => {
      const worker = await miniflare.getWorker();
      const result = await worker.scheduled({
        cron: body.cron,
        scheduledTime: body.scheduledTime == null ? undefined : new Date(body.scheduledTime),
      });
      return { outcome: result.outcome };
    },
  };
}

async function readJson(request) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  return chunks.length === 0 ? {} : JSON.parse(Buffer.concat(chunks).toString("utf8"));
}

function authorized(request, token) {
  const given = Buffer.from(request.headers.authorization ?? "");
  const wanted = Buffer.from(`Bearer ${token}`);
  return given.length === wanted.length && timingSafeEqual(given, wanted);
}

// A request listener for node:http. Errors of an operation are answered as 500 {error}.
export function createControlServer(miniflare, token) {
  const table = operations(miniflare);
  return async (request, response) => {
    const answer = (status, body) => {
      response.writeHead(status, { "content-type": "application/json" });
      response.end(JSON.stringify(body));
    };
    if (!authorized(request, token)) return answer(401, { error: "wrong or missing token" });
    const operation = request.method === "POST" && Object.hasOwn(table, request.url) && table[request.url];
    if (!operation) return answer(404, { error: `no operation ${request.method} ${request.url}` });
    try {
      answer(200, await operation(await readJson(request)));
    } catch (error) {
      answer(500, { error: String(error?.stack ?? error) });
    }
  };
}
