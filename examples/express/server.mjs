// A paid API in Express, over the ledger's REST API: plain fetch, no package of ours.
//
//   npm ci
//   LEDGER_URL=http://localhost:8000 LEDGER_API_KEY=... PRICE=10000 npm start
//
// GET /weather costs PRICE, POST /summary costs PRICE for every started 100 characters.

import { randomUUID } from "node:crypto";
import express from "express";

const { LEDGER_URL = "http://localhost:8000", LEDGER_API_KEY, PRICE = "10000", PORT = "3000" } = process.env;
if (!LEDGER_API_KEY) throw new Error("set LEDGER_API_KEY: POST /v1/sellers gives it to you");

const ATTEMPTS = 3;
const TIMEOUT_MS = 5_000;
const RETRY_SECONDS = "2";

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

// Vouchers whose verdict was lost, with the key to ask under again. A key is taken by one request
// only, so that a voucher which comes twice at once is not served twice.
const unanswered = new Map();

async function verify(body) {
  const name = JSON.stringify(body);
  const key = unanswered.get(name) ?? randomUUID();
  unanswered.delete(name);
  try {
    return await ask("/v1/vouchers/verify", { body, key });
  } catch (error) {
    if (error instanceof LedgerUnavailable) unanswered.set(name, key);
    if (unanswered.size > 10_000) unanswered.delete(unanswered.keys().next().value);
    throw error;
  }
}

/** Let a request pass that pays `price(request)` atomic units; the verdict is `request.payment`. */
function paid(price = () => BigInt(PRICE)) {
  return async (request, response, next) => {
    if (request.method === "OPTIONS") return next();
    const amount = String(price(request));
    const refuse = async (problem) => {
      const challenge = { ...(await ask("/v1/challenge")), pricePerUnit: amount };
      response.status(402).json({ title: "Payment Required", status: 402, ...problem, ...challenge });
    };
    try {
      const header = request.get("x-mpp-voucher");
      if (header === undefined) {
        return await refuse({ code: "payment_required", error: "payment_required" });
      }
      let sent;
      try {
        sent = JSON.parse(header) ?? {};
      } catch {
        return response.status(400).json({ status: 400, code: "invalid_voucher_json", error: "invalid_voucher_json" });
      }
      // These four members and no other: the charge is the seller's to say.
      const { voucher, signature, signer, signatureType } = sent;
      const verdict = await verify({ voucher, signature, signer, signatureType, charge: { amount } });
      if (!verdict.valid) {
        // What a grant says against it (limit, used, fallback, ...) is what the buyer's client goes by.
        const { code, error, detail, receipt, grant } = verdict;
        if (Number.isInteger(grant?.retryAfter)) response.set("retry-after", String(grant.retryAfter));
        return await refuse({ ...grant, verdict: verdict.verdict, code, error, detail, receipt, status: 402 });
      }
      request.payment = verdict;
      response.set("x-mpp-receipt", verdict.receipt.eventHash);
    } catch (error) {
      if (!(error instanceof LedgerUnavailable)) return next(error);
      console.error(error.message);
      return response
        .status(503)
        .set("retry-after", RETRY_SECONDS)
        .json({ status: 503, code: "payment_unavailable", error: "payment_unavailable", retryable: true });
    }
    next();
  };
}

const app = express();
app.use(express.json());

app.get("/weather", paid(), (request, response) => {
  response.json({ sky: "clear", paid: request.payment.amountPaid });
});

const words = (request) => BigInt(PRICE) * BigInt(Math.max(1, Math.ceil((request.body?.text?.length ?? 0) / 100)));
app.post("/summary", paid(words), (request, response) => {
  response.json({ summary: String(request.body?.text ?? "").slice(0, 20), paid: request.payment.amountPaid });
});

// Four parameters make it an error handler.
app.use((error, request, response, next) => {
  if (response.headersSent) return next(error);
  const status = error.status ?? 500;
  if (status >= 500) console.error(error.message);
  response.status(status).json({ status, code: status < 500 ? "invalid_request" : "internal_error" });
});

const server = app.listen(Number(PORT), "127.0.0.1", () => {
  console.log(JSON.stringify({ url: `http://127.0.0.1:${server.address().port}` }));
});
process.on("SIGTERM", () => server.close());
