// A paid API in Express.
//
//   npm ci
//   LEDGER_URL=http://localhost:8000 LEDGER_API_KEY=... PRICE=10000 npm start
//
// GET /weather costs PRICE, POST /summary costs PRICE for every started 100 characters, GET /poem
// costs LINE_PRICE a line. paid.mjs and streams.mjs are for copying.

import express from "express";
import { paid } from "./paid.mjs";
import { streamed, streamRoute } from "./streams.mjs";

const { PRICE = "10000", LINE_PRICE = "500", PORT = "3000" } = process.env;

const app = express();
app.use(express.json());

app.get("/weather", paid(() => BigInt(PRICE)), (request, response) => {
  response.json({ sky: "clear", paid: request.payment.amountPaid });
});

const words = (request) => BigInt(PRICE) * BigInt(Math.max(1, Math.ceil((request.body?.text?.length ?? 0) / 100)));
app.post("/summary", paid(words), (request, response) => {
  response.json({ summary: String(request.body?.text ?? "").slice(0, 20), paid: request.payment.amountPaid });
});

function* poem(lines) {
  for (let number = 1; number <= lines; number++) yield `data: line ${number}\n\n`;
}
app.get("/poem", streamed(BigInt(LINE_PRICE)), async (request, response) => {
  response.type("text/event-stream");
  await request.stream.send(response, poem(Number(request.query.lines ?? 10)));
});
app.route("/mpp/streams/:id").get(streamRoute).post(streamRoute);

// Four parameters make it an error handler. A voucher whose request ends with 500 is served later.
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
