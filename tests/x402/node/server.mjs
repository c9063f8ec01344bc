// A paid Express server with the published @x402/express middleware. usage: node server.mjs CONFIG_JSON
//
// Prints its address as one JSON line. Its routes cost the same price: /paid, /upfront (settled before
// the handler), /memo (the seller names the memo), /hinted (the challenge holds a blockhash), /hurried
// (a second until it is settled), /broken (the handler fails) and /legacy (version 1, on the
// facilitator client).
import {
  HTTPFacilitatorClient,
  decodePaymentSignatureHeader,
  encodePaymentResponseHeader,
} from '@x402/core/http';
import { paymentMiddleware, x402ResourceServer } from '@x402/express';
import { registerExactSvmScheme } from '@x402/svm/exact/server';
import express from 'express';

const config = JSON.parse(process.argv[2]);
const { network, payTo, price } = config;
const facilitator = new HTTPFacilitatorClient({ url: config.facilitator });

const option = (more) => ({ accepts: { scheme: 'exact', network, payTo, price, ...more } });
const plain = registerExactSvmScheme(new x402ResourceServer(facilitator));
const hinting = registerExactSvmScheme(new x402ResourceServer(facilitator), {
  rpcUrl: config.rpcUrl,
});
const routes = {
  'GET /paid': option(),
  'GET /upfront': option({ extra: { paymentFlow: 'upfront' } }),
  'GET /memo': option({ extra: { memo: config.memo } }),
  'GET /hurried': option({ maxTimeoutSeconds: 1 }),
  'GET /broken': option(),
};

const app = express();
app.use(paymentMiddleware(routes, plain));
app.use(paymentMiddleware({ 'GET /hinted': option() }, hinting));

app.get('/broken', (_, response) => {
  response.status(500).json({ error: 'out of order' });
});

/** What a server of version 1 does; the package has the client's half of it alone. */
app.get('/legacy', async (request, response) => {
  const { kinds } = await facilitator.getSupported();
  const kind = kinds.find((kind) => kind.x402Version === 1 && kind.network === 'solana-devnet');
  const requirements = {
    scheme: 'exact',
    network: kind.network,
    maxAmountRequired: config.amount,
    resource: `${request.protocol}://${request.headers.host}${request.originalUrl}`,
    description: '',
    mimeType: 'application/json',
    payTo,
    maxTimeoutSeconds: 60,
    asset: config.asset,
    outputSchema: {},
    extra: kind.extra,
  };
  const header = request.header('x-payment');
  let error = 'X-PAYMENT header is required';
  if (header) {
    const payment = decodePaymentSignatureHeader(header);
    const verified = await facilitator.verify(payment, requirements);
    if (verified.isValid) {
      const settled = await facilitator.settle(payment, requirements);
      response.setHeader('X-PAYMENT-RESPONSE', encodePaymentResponseHeader(settled));
      if (settled.success) return response.json({ served: '/legacy' });
      return response.status(402).json({ error: settled.errorReason });
    }
    error = verified.invalidReason;
  }
  return response.status(402).json({ x402Version: 1, error, accepts: [requirements] });
});

app.get('/:path', (request, response) => response.json({ served: `/${request.params.path}` }));

const listener = app.listen(0, '127.0.0.1', () => {
  console.log(JSON.stringify({ url: `http://127.0.0.1:${listener.address().port}` }));
});

// A server does not outlive the test that started it.
process.stdin.resume().on('end', () => process.exit(0));
