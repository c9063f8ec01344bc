// A whole payment through @solana/kit: fund, simulate, send and confirm, read back.
// usage: node pay.mjs RPC_URL WEBSOCKET_URL MINT   (prints one JSON object)
import { createHash } from 'node:crypto';

import { getAddMemoInstruction } from '@solana-program/memo';
import {
  TOKEN_PROGRAM_ADDRESS,
  fetchToken,
  findAssociatedTokenPda,
  getApproveCheckedInstruction,
  getCreateAssociatedTokenIdempotentInstruction,
  getTransferCheckedInstruction,
} from '@solana-program/token';
import {
  address,
  airdropFactory,
  appendTransactionMessageInstructions,
  assertIsSendableTransaction,
  assertIsTransactionWithBlockhashLifetime,
  createKeyPairSignerFromPrivateKeyBytes,
  createSolanaRpc,
  createSolanaRpcSubscriptions,
  createTransactionMessage,
  getBase64EncodedWireTransaction,
  getSignatureFromTransaction,
  isSolanaError,
  lamports,
  pipe,
  sendAndConfirmTransactionFactory,
  setTransactionMessageFeePayerSigner,
  setTransactionMessageLifetimeUsingBlockhash,
  signTransactionMessageWithSigners,
} from '@solana/kit';

const [, , rpcUrl, websocketUrl, mintText] = process.argv;
const rpc = createSolanaRpc(rpcUrl);
const rpcSubscriptions = createSolanaRpcSubscriptions(websocketUrl);
const sendAndConfirm = sendAndConfirmTransactionFactory({ rpc, rpcSubscriptions });
const airdrop = airdropFactory({ rpc, rpcSubscriptions });
const mint = address(mintText);

const signer = (name) =>
  createKeyPairSignerFromPrivateKeyBytes(createHash('sha256').update(`kit ${name}`).digest());
const [buyer, seller, delegate] = await Promise.all(['buyer', 'seller', 'delegate'].map(signer));
const tokenAccount = async (owner) =>
  (await findAssociatedTokenPda({ mint, owner, tokenProgram: TOKEN_PROGRAM_ADDRESS }))[0];
const source = await tokenAccount(buyer.address);
const destination = await tokenAccount(seller.address);

async function cheat(method, params) {
  const body = JSON.stringify({ jsonrpc: '2.0', id: 1, method, params });
  const headers = { 'content-type': 'application/json' };
  const { error } = await (await fetch(rpcUrl, { method: 'POST', headers, body })).json();
  if (error) throw new Error(error.message);
}

async function sign(payer, instructions) {
  const { value: latest } = await rpc.getLatestBlockhash({ commitment: 'confirmed' }).send();
  const message = pipe(
    createTransactionMessage({ version: 0 }),
    (m) => setTransactionMessageFeePayerSigner(payer, m),
    (m) => setTransactionMessageLifetimeUsingBlockhash(latest, m),
    (m) => appendTransactionMessageInstructions(instructions, m),
  );
  const transaction = await signTransactionMessageWithSigners(message);
  assertIsSendableTransaction(transaction);
  assertIsTransactionWithBlockhashLifetime(transaction);
  return transaction;
}

async function pay(payer, instructions, commitment) {
  const transaction = await sign(payer, instructions);
  await sendAndConfirm(transaction, { commitment });
  return getSignatureFromTransaction(transaction);
}

for (const { address: recipientAddress } of [buyer, delegate]) {
  await airdrop({ commitment: 'confirmed', lamports: lamports(1_000_000_000n), recipientAddress });
}
await cheat('surfnet_setTokenAccount', [buyer.address, mint, { amount: 10_000_000 }]);

const amounts = { mint, decimals: 6 };
await pay(
  buyer,
  [
    getCreateAssociatedTokenIdempotentInstruction({
      payer: buyer,
      ata: destination,
      owner: seller.address,
      mint,
    }),
    getApproveCheckedInstruction({
      ...amounts,
      source,
      delegate: delegate.address,
      owner: buyer,
      amount: 3_000_000n,
    }),
  ],
  'confirmed',
);

const transfer = (amount) =>
  getTransferCheckedInstruction({ ...amounts, source, destination, authority: delegate, amount });
const memo = getAddMemoInstruction({ memo: 'settlement 42' });

const simulated = await rpc
  .simulateTransaction(
    getBase64EncodedWireTransaction(await sign(delegate, [transfer(2_500_000n), memo])),
    { encoding: 'base64', sigVerify: true, commitment: 'confirmed' },
  )
  .send();
const signature = await pay(delegate, [transfer(2_500_000n), memo], 'finalized');

let refusal = null;
try {
  await pay(delegate, [transfer(500_001n)], 'confirmed');
} catch (error) {
  refusal = { known: isSolanaError(error), cause: error.cause?.context?.code ?? null };
}

const landed = await rpc
  .getTransaction(signature, { encoding: 'jsonParsed', maxSupportedTransactionVersion: 0 })
  .send();
const token = await fetchToken(rpc, source);
const shown = await rpc.getTokenAccountBalance(destination).send();
const owned = await rpc
  .getTokenAccountsByOwner(seller.address, { mint }, { encoding: 'jsonParsed' })
  .send();
const { value: statuses } = await rpc
  .getSignatureStatuses([signature], { searchTransactionHistory: true })
  .send();

const seen = {
  simulatedErr: simulated.value.err,
  simulatedUnits: simulated.value.unitsConsumed,
  level: statuses[0].confirmationStatus,
  transfer: landed.transaction.message.instructions[0].parsed,
  memo: landed.transaction.message.instructions[1].parsed,
  source: String(token.data.amount),
  delegated: String(token.data.delegatedAmount),
  destination: shown.value.amount,
  owned: owned.value.map((item) => item.account.data.parsed.info.tokenAmount.amount),
  refusal,
};
console.log(JSON.stringify(seen, (_, value) => (typeof value === 'bigint' ? Number(value) : value)));
