// A Worker beside the marketplace's, bound to the same KV: writes many entries within workerd, which is
// many times faster than through miniflare's proxy. POST {binding, entries: [{key, value, metadata?}]};
// "base64" instead of "value" holds bytes that are not text. POST {milliseconds, hangsEvery} says how
// long the calls of SlowKv take.

import { WorkerEntrypoint } from "cloudflare:workers";

const PARALLEL = 100;
const FOR_EVER = 60_000; // milliseconds: without an end workerd would notice, and answer

let pace = { milliseconds: 0, hangsEvery: 0 };
let calls = 0;

async function wait() {
  calls += 1;
  const hangs = pace.hangsEvery > 0 && calls % pace.hangsEvery === 0;
  const milliseconds = hangs ? FOR_EVER : pace.milliseconds;
  if (milliseconds > 0) await new Promise((resolve) => setTimeout(resolve, milliseconds));
}

// SUBMISSIONS_KV as tests let it be: each call waits, and some never end.
export class SlowKv extends WorkerEntrypoint {
  async get(key, type) {
    await wait();
    return await this.env.SUBMISSIONS_KV.get(key, type);
  }
  async put(key, value, options) {
    await wait();
    return await this.env.SUBMISSIONS_KV.put(key, value, options);
  }
  async delete(key) {
    await wait();
    return await this.env.SUBMISSIONS_KV.delete(key);
  }
  async list(options) {
    await wait();
    return await this.env.SUBMISSIONS_KV.list(options);
  }
}

const bytesOf = (base64) => Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));

export default {
  async fetch(request, env) {
    const { binding, entries, ...asked } = await request.json();
    if (entries === undefined) {
      pace = asked;
      return Response.json(pace);
    }
    for (let start = 0; start < entries.length; start += PARALLEL) {
      await Promise.all(
        entries
          .slice(start, start + PARALLEL)
          .map(({ key, value, base64, metadata }) =>
            env[binding].put(key, base64 == null ? value : bytesOf(base64), metadata == null ? {} : { metadata }),
          ),
      );
    }
    return Response.json({ written: entries.length });
  },
};
