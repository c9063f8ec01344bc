// The reference SDK, unmodified, against the service: sessions with both kinds of signer, then a charge.
// usage: DEXTER_MPP=DIR node dexter.mjs CONFIG_JSON   (DIR holds the built package; prints one JSON object)
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

const root = path.resolve(process.env.DEXTER_MPP);
const require = createRequire(path.join(root, 'package.json'));
const dist = (file) => import(pathToFileURL(path.join(root, 'dist', file)));
const dependency = (name) => import(pathToFileURL(require.resolve(name)));

const [{ createSessionClient }, { createSessionServer }, server, client] = await Promise.all(
  ['client/session.js', 'server/session.js', 'server/charge.js', 'client/charge.js'].map(dist),
);
const kit = await dependency('@solana/kit');
const { Mppx: ServerMppx } = await dependency('mppx/server');
const { Mppx: ClientMppx } = await dependency('mppx/client');

const config = JSON.parse(process.argv[2]);
const { apiUrl, network, price, payments } = config;

const seedOf = (hex) => Uint8Array.from(Buffer.from(hex, 'hex'));

async function keyPair(seed) {
  return await kit.createKeyPairFromPrivateKeyBytes(seedOf(seed), true);
}

/** What a program with another wallet library passes: callbacks instead of a key pair. */
async function callbacks(seed) {
  const pair = await keyPair(seed);
  return {
    publicKey: await kit.getAddressFromPublicKey(pair.publicKey),
    signMessage: async (message) =>
      new Uint8Array(await crypto.subtle.sign('Ed25519', pair.privateKey, message)),
    signTransaction: async (text) => {
      const transaction = kit.getTransactionDecoder().decode(Buffer.from(text, 'base64'));
      return kit.getBase64EncodedWireTransaction(
        await kit.partiallySignTransaction([pair], transaction),
      );
    },
  };
}

async function verifyHere(seller, voucher) {
  const answer = await fetch(`${apiUrl}/v1/vouchers/verify`, {
    method: 'POST',
    headers: { authorization: `Bearer ${seller.apiKey}`, 'content-type': 'application/json' },
    body: JSON.stringify(voucher),
  });
  return await answer.json();
}

async function play({ buyer, kind, seller }) {
  const events = [];
  const wallet = buyer.address;
  const common = { buyerWallet: wallet, apiUrl, network };
  const before = createSessionClient({ ...common, buyerSwigAddress: wallet });
  const signer =
    kind === 'keyPair' ? { signer: await keyPair(buyer.seed) } : await callbacks(buyer.seed);
  const onboarded = await before.onboard({ ...signer, spendLimit: config.spendLimit });
  const again = await before.onboard({ ...signer, spendLimit: config.spendLimit });

  const session = createSessionClient({
    ...common,
    buyerSwigAddress: onboarded.swigAddress,
    onProgress: (event) => events.push(event.type),
  });
  const channel = await session.open({
    seller: seller.recipient,
    deposit: config.deposit,
    idleTimeoutSeconds: 600,
    metadata: { purpose: 'a test' },
  });
  const judge = createSessionServer({ recipient: seller.recipient, pricePerUnit: price, network });
  const verdicts = [];
  for (let n = 1; n <= payments; n++) {
    const voucher = await session.pay(channel.channel_id, {
      amount: String(BigInt(price) * BigInt(n)),
      serverNonce: crypto.randomUUID(),
      meter: 'request \u00e9 \u20ac \u{1f600}',
    });
    // As it travels: through a header and JSON, not as the object that came.
    const travelled = JSON.parse(JSON.stringify(voucher));
    const reference = judge.verifyVoucher(travelled);
    const ours = await verifyHere(seller, travelled);
    verdicts.push([reference.valid, reference.amountPaid ?? reference.error, ours.valid]);
  }
  const context = judge.getSessionContext(channel.channel_id);
  const closed = await session.close(channel.channel_id);
  const once_more = await session.client.sessionClose({ channel_id: channel.channel_id });
  let late;
  try {
    await session.client.sessionVoucher({
      channel_id: channel.channel_id,
      amount: '999999',
      serverNonce: 'late',
    });
  } catch (error) {
    late = { code: error.code, message: error.message };
  }
  return {
    onboarded,
    again,
    channel,
    verdicts,
    watermark: String(context.cumulativeAmount),
    closed,
    once_more,
    late,
    events: [...new Set(events)],
  };
}

async function status(buyer) {
  // The header that the SDK's onboarding builds, through its own client.
  const session = createSessionClient({
    buyerWallet: buyer.address,
    buyerSwigAddress: buyer.address,
    apiUrl,
    network,
  });
  try {
    return await session.client.sessionOnboardStatus(buyer.address);
  } catch (error) {
    return { code: error.code, message: error.message };
  }
}

async function charge({ buyer, seller }) {
  const method = server.charge({
    recipient: seller.recipient,
    network,
    apiUrl,
    verifyRpcUrl: config.rpcUrl,
  });
  const mppx = ServerMppx.create({ secretKey: 'test', methods: [method] });
  const http = createServer(async (request, response) => {
    const url = `http://127.0.0.1:${http.address().port}${request.url}`;
    const asked = new Request(url, { method: request.method, headers: request.headers });
    const result = await mppx.charge({ amount: price, currency: 'USDC' })(asked);
    const answer =
      result.status === 402
        ? result.challenge
        : result.withReceipt(Response.json({ served: true }));
    response.writeHead(answer.status, Object.fromEntries(answer.headers));
    response.end(await answer.text());
  });
  await new Promise((ready) => http.listen(0, '127.0.0.1', ready));
  try {
    const signer = await kit.createKeyPairSignerFromPrivateKeyBytes(seedOf(buyer.seed));
    const payer = ClientMppx.create({ methods: [client.charge({ signer })], polyfill: false });
    const answer = await payer.fetch(`http://127.0.0.1:${http.address().port}/paid`);
    return {
      status: answer.status,
      body: await answer.text(),
      receipt: answer.headers.get('payment-receipt'),
    };
  } finally {
    http.close();
  }
}

const sessions = await Promise.all(config.sessions.map(play));
const unproven = await status(config.charge.buyer);
const charged = await charge(config.charge);
console.log(JSON.stringify({ sessions, unproven, charged }));
process.exit(0);
