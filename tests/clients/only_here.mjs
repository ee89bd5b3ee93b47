// Loaded into the installers before they begin: the network of the tests. Nothing leaves the
// machine: any other connection fails, and is noted in the file BLOCKED. What a forge would be asked
// is asked of a server on this machine, FORGE.

import { appendFileSync } from "node:fs";
import net from "node:net";

const { BLOCKED, FORGE } = process.env;
const HERE = new Set(["127.0.0.1", "localhost", "::1"]);

const connect = net.Socket.prototype.connect;
net.Socket.prototype.connect = function (...given) {
  const [options] = Array.isArray(given[0]) ? given[0] : given;
  const host = options?.host ?? "localhost";
  if (options?.path === undefined && !HERE.has(host)) {
    appendFileSync(BLOCKED, `${host}\n`);
    throw new Error(`the tests let nothing out: ${host}`);
  }
  return connect.apply(this, given);
};

const ask = globalThis.fetch;
globalThis.fetch = (wanted, ...rest) => {
  const url = new URL(wanted instanceof Request ? wanted.url : wanted);
  if (url.hostname !== "raw.githubusercontent.com") return ask(wanted, ...rest);
  return ask(new URL(url.pathname, FORGE), ...rest);
};
