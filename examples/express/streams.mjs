// Responses that are paid for while they are delivered: an item is reserved out of what the vouchers
// paid, delivered, then committed. Without credit a stream pauses until a further voucher is posted
// to the path in `x-mpp-stream`, or ends. What is left is for the channel's next stream.

import { randomUUID } from "node:crypto";
import { judge, orAway, refuseVoucher, remember, take } from "./paid.mjs";

const PAUSE_MS = 30_000;
const live = new Map(); // by id
const kept = new Map(); // by channel

function keep(channel, amount) {
  const total = amount + (take(kept, channel) ?? 0n);
  if (total > 0n) remember(kept, channel, total);
}

class Stream {
  constructor(channel, price, paid) {
    const path = `/mpp/streams/${(this.id = randomUUID())}`;
    Object.assign(this, { path, channel, price, paid, reserved: 0n, delivered: 0n, state: "running", wake() {} });
    live.set(this.id, this);
  }

  get left() {
    return this.paid - this.reserved - this.delivered;
  }

  toJSON() {
    const amounts = { unitPrice: this.price, paid: this.paid, delivered: this.delivered, left: this.left };
    for (const name in amounts) amounts[name] = String(amounts[name]);
    return { streamId: this.id, channelId: this.channel, state: this.state, ...amounts };
  }

  reserve() {
    if (this.state !== "ended" && this.left >= this.price) this.reserved = this.price;
    return this.reserved > 0n;
  }

  /** Deliver the items as they are paid for. One that is under way when the client leaves counts. */
  async send(response, items) {
    for await (const item of items) {
      if (!this.reserve()) await this.pause(response);
      if (!this.reserved) break;
      await new Promise((written) => response.write(item, written));
      this.delivered += this.reserved;
      this.reserved = 0n;
    }
    this.end();
    response.end();
  }

  async pause(response) {
    if (this.state !== "ended") this.state = "paused";
    response.write(`event: payment-required\ndata: ${JSON.stringify({ ...this.toJSON(), topUp: this.path })}\n\n`);
    const timer = setTimeout(() => this.end(), PAUSE_MS);
    while (this.state === "paused" && !this.reserve()) await new Promise((resume) => (this.wake = resume));
    clearTimeout(timer);
    if (this.state === "paused") this.state = "running";
  }

  end() {
    if (live.delete(this.id)) keep(this.channel, this.left);
    this.state = "ended";
    this.wake();
  }
}

/** Open a stream at `price` atomic units an item: `request.stream`, to send through. */
export function streamed(price) {
  return async (request, response, next) => {
    const verdict = await judge(request, response, String(price), { replays: true });
    if (!verdict) return;
    const { channelId, eventHash } = verdict.receipt;
    const paid = (take(kept, channelId) ?? 0n) + BigInt(verdict.valid ? verdict.amountPaid : 0);
    if (!paid) return await orAway(response, () => refuseVoucher(response, String(price), verdict));
    const stream = (request.stream = new Stream(channelId, price, paid));
    response.set({ "x-mpp-stream": stream.path, "x-mpp-unit-price": `${price}`, "x-mpp-receipt": eventHash });
    response.on("close", () => stream.end());
    next();
  };
}

/** A further voucher for a live stream (POST), or how it stands (GET). */
export async function streamRoute(request, response) {
  const stream = live.get(request.params.id);
  if (!stream) return response.status(404).json({ status: 404, code: "stream_not_found", error: "stream_not_found" });
  if (request.method === "GET") return response.json(stream);
  const verdict = await judge(request, response, String(stream.price), { replays: true, channel: stream.channel });
  if (!verdict) return;
  if (verdict.valid) {
    stream.last = verdict.name;
    if (live.has(stream.id)) stream.paid += BigInt(verdict.amountPaid);
    else keep(stream.channel, BigInt(verdict.amountPaid)); // it ended meanwhile
    stream.wake();
  }
  if (stream.last === verdict.name) return response.json(stream); // the same voucher again adds nothing
  await orAway(response, () => refuseVoucher(response, String(stream.price), verdict));
}
