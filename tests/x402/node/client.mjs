// The published @x402/fetch client. usage: node client.mjs RPC_URL
//
// Reads one JSON object a line, {"seed": HEX, "urls": [URL, ...]}, pays for the addresses at the same
// time with the wallet of the seed and prints the answers.
import { createInterface } from 'node:readline';
import { createKeyPairSignerFromPrivateKeyBytes } from '@solana/kit';
import { wrapFetchWithPayment, x402Client } from '@x402/fetch';
import { ExactSvmScheme } from '@x402/svm/exact/client';
import { ExactSvmSchemeV1, NETWORKS } from '@x402/svm/v1';

const [rpcUrl] = process.argv.slice(2);

async function pay(seed, url) {
  const signer = await createKeyPairSignerFromPrivateKeyBytes(Buffer.from(seed, 'hex'));
  const client = new x402Client().register('solana:*', new ExactSvmScheme(signer, { rpcUrl }));
  for (const name of NETWORKS) client.registerV1(name, new ExactSvmSchemeV1(signer, { rpcUrl }));
  let payment = null;
  const recording = (request) => {
    const { headers } = request;
    payment = headers.get('PAYMENT-SIGNATURE') ?? headers.get('X-PAYMENT') ?? payment;
    return fetch(request);
  };
  const answer = await wrapFetchWithPayment(recording, client)(url);
  return {
    status: answer.status,
    body: await answer.json(),
    headers: Object.fromEntries(answer.headers),
    payment,
  };
}

for await (const line of createInterface({ input: process.stdin })) {
  const { seed, urls } = JSON.parse(line);
  const answers = await Promise.all(urls.map((url) => pay(seed, url)));
  console.log(JSON.stringify({ answers }));
}
