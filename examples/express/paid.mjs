// Charging routes over the ledger's REST API: plain fetch, no package of ours.

import { randomUUID } from "node:crypto";
import { STATUS_CODES } from "node:http";

const { LEDGER_URL = "http://localhost:8000", LEDGER_API_KEY } = process.env;
if (!LEDGER_API_KEY) throw new Error("set LEDGER_API_KEY: POST /v1/sellers gives it to you");

const ATTEMPTS = 3;
const TIMEOUT_MS = 5_000;
const RETRY_SECONDS = "2";
const ENTRIES_MAX = 10_000;

/** The ledger gave no answer to rely on: serve nothing, and answer 503. */
class LedgerUnavailable extends Error {}

/** Ask the ledger. Every call may be repeated: it writes nothing, or it carries its key. */
async function ask(path, { body, key = randomUUID() } = {}) {
  for (let attempt = 1; ; attempt++) {
    try {
      const answer = await fetch(LEDGER_URL + path, {
        method: body ? "POST" : "GET",
        headers: {
          authorization: `Bearer ${LEDGER_API_KEY}`,
          "content-type": "application/json",
          "idempotency-key": key,
        },
        body: body && JSON.stringify(body),
        signal: AbortSignal.timeout(TIMEOUT_MS),
      });
      if (answer.status < 500 && answer.status !== 429) {
        const found = await answer.json();
        if (answer.ok) return found;
        throw new Error(`the ledger answered ${answer.status} ${found.code}: ${found.detail}`);
      }
      throw new LedgerUnavailable(`the ledger answered ${answer.status}`);
    } catch (error) {
      const away = error instanceof LedgerUnavailable || error.name === "TimeoutError" || error instanceof TypeError;
      if (!away) throw error;
      if (attempt === ATTEMPTS) throw new LedgerUnavailable("the ledger cannot be reached", { cause: error });
      await new Promise((resume) => setTimeout(resume, 100 * 2 ** attempt));
    }
  }
}

// By the question: the key of a verdict that was lost, to ask under again; and what was paid for and
// not delivered. An entry is taken by one request only, so that nothing is served twice.
const unanswered = new Map();
const owed = new Map();

export function take(map, name) {
  const found = map.get(name);
  map.delete(name);
  return found;
}

export function remember(map, name, value) {
  map.set(name, value);
  if (map.size > ENTRIES_MAX) map.delete(map.keys().next().value);
}

async function verify(body) {
  const name = JSON.stringify(body);
  const paidBefore = take(owed, name);
  if (paidBefore) return paidBefore;
  const key = take(unanswered, name) ?? randomUUID();
  try {
    return Object.assign(await ask("/v1/vouchers/verify", { body, key }), { name });
  } catch (error) {
    if (error instanceof LedgerUnavailable) remember(unanswered, name, key);
    throw error;
  }
}

/** Do what asks the ledger; while it is away, answer 503. */
export async function orAway(response, what) {
  try {
    return await what();
  } catch (error) {
    if (!(error instanceof LedgerUnavailable)) throw error;
    console.error(error.message);
    const problem = { status: 503, code: "payment_unavailable", error: "payment_unavailable", retryable: true };
    response.status(503).set("retry-after", RETRY_SECONDS).json(problem);
  }
}

/** Answer with the challenge: 402, or the status that a grant's refusal has. */
async function refuse(response, amount, problem, status = 402) {
  const challenge = { ...(await ask("/v1/challenge")), pricePerUnit: amount };
  // As a problem, a buyer's client tells it from an answer that was paid for.
  if (status !== 402) response.type("application/problem+json");
  response.status(status).json({ title: STATUS_CODES[status], ...problem, status, ...challenge });
}

/** Why a voucher buys nothing. What a grant says to it is what the buyer's client goes by. */
export function refuseVoucher(response, amount, { verdict, code, error, detail, receipt, grant }) {
  if (Number.isInteger(grant?.retryAfter)) response.set("retry-after", String(grant.retryAfter));
  return refuse(response, amount, { ...grant, verdict, code, error, detail, receipt }, grant?.status);
}

/** The verdict of a request that pays `amount`, on this channel if one is given; else it is answered. */
export function judge(request, response, amount, { replays = false, channel } = {}) {
  return orAway(response, async () => {
    const header = request.get("x-mpp-voucher");
    if (header === undefined) {
      return await refuse(response, amount, { code: "payment_required", error: "payment_required" });
    }
    let sent;
    try {
      sent = JSON.parse(header) ?? {};
    } catch {
      return void response.status(400).json({ status: 400, code: "invalid_voucher_json", error: "invalid_voucher_json" });
    }
    // These four members and no other: the charge is the seller's to say.
    const { voucher, signature, signer, signatureType } = sent;
    if (channel !== undefined && voucher?.channelId !== channel) {
      return void response.status(409).json({ status: 409, code: "channel_mismatch", error: "channel_mismatch" });
    }
    const verdict = await verify({ voucher, signature, signer, signatureType, charge: { amount } });
    if (verdict.valid || (replays && verdict.verdict === "replayed")) return verdict;
    await refuseVoucher(response, amount, verdict);
  });
}

/** Let a request pass that pays `price(request)` atomic units; the verdict is `request.payment`. */
export function paid(price) {
  return async (request, response, next) => {
    if (request.method === "OPTIONS") return next();
    const verdict = await judge(request, response, String(price(request)));
    if (!verdict) return;
    const owe = () => remember(owed, verdict.name, verdict); // served when it comes again
    const { writeHead } = response;
    response.writeHead = (status, ...rest) => {
      if (status < 500) response.setHeader("x-mpp-receipt", verdict.receipt.eventHash);
      else owe();
      return writeHead.call(response, status, ...rest);
    };
    response.on("close", () => response.headersSent || owe());
    request.payment = verdict;
    next();
  };
}
