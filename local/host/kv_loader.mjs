// A Worker beside the marketplace's, bound to the same KV: writes many entries within workerd, which is
// many times faster than through miniflare's proxy. POST {binding, entries: [{key, value, metadata?}]};
// "base64" instead of "value" holds bytes that are not text.

const PARALLEL = 100;

const bytesOf = (base64) => Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));

export default {
  async fetch(request, env) {
    const { binding, entries } = await request.json();
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
