// The API: Connect's protocol, which is the gRPC services as JSON over HTTP. docs/json-api.md

const PACKAGE = "/dts.v1.";

/** An error of the API, with the row of the error table that it is. */
export class Failure extends Error {
  constructor({ code, message, details = [] }) {
    super(message || code || "the coordinator does not answer");
    const info = details.find((detail) => detail.type === "google.rpc.ErrorInfo")?.debug;
    this.code = code;
    this.reason = info?.reason;
    this.fix = info?.metadata?.fix;
  }
}

async function ask(path, type, body, signal) {
  try {
    return await fetch(PACKAGE + path, { method: "POST", headers: { "Content-Type": type, "Connect-Protocol-Version": "1" }, body, signal });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Failure({ code: "unavailable", message: "the coordinator does not answer" });
  }
}

/** One question, one answer. */
export async function call(path, request = {}, signal) {
  const answer = await ask(path, "application/json", JSON.stringify(request), signal);
  let said;
  try {
    said = await answer.json();
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Failure({ code: "unknown", message: `an answer that is no JSON (HTTP ${answer.status})` });
  }
  if (!answer.ok) throw new Failure(said);
  return said;
}

/** Every answer of a stream. */
export async function* stream(path, request, signal) {
  const message = new TextEncoder().encode(JSON.stringify(request));
  const sent = new Uint8Array(5 + message.length);
  new DataView(sent.buffer).setUint32(1, message.length);
  sent.set(message, 5);
  const answer = await ask(path, "application/connect+json", sent, signal);
  if (!answer.ok) throw new Failure(await answer.json().catch(() => ({ code: "unknown" })));
  const reader = answer.body.getReader();
  let held = new Uint8Array(0);
  for (;;) {
    while (held.length >= 5) {
      const length = new DataView(held.buffer, held.byteOffset).getUint32(1);
      if (held.length < 5 + length) break;
      const said = JSON.parse(new TextDecoder().decode(held.subarray(5, 5 + length)));
      const ends = held[0] === 2;
      held = held.subarray(5 + length);
      if (!ends) yield said;
      else if (said.error) throw new Failure(said.error);
      else return;
    }
    const { done, value } = await reader.read();
    if (done) throw new Failure({ code: "unavailable", message: "the coordinator is gone" });
    const both = new Uint8Array(held.length + value.length);
    both.set(held);
    both.set(value, held.length);
    held = both;
  }
}

/** All pages of a list. */
export async function all(path, name, request, signal) {
  const found = [];
  let pageToken = "";
  do {
    const page = await call(path, { ...request, pageSize: 200, pageToken }, signal);
    found.push(...(page[name] ?? []));
    pageToken = page.nextPageToken ?? "";
  } while (pageToken);
  return found;
}

/** A key that makes a repeated call the same call. */
export const requestId = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, "0")).join("");
