// What it means that `fetch` has failed. Node and Bun say it by codes, Deno in a sentence.

import type { Why } from './answer.js';

/** No answer came. */
export interface Fault {
  why: Why;
  /** Nothing was sent, so nothing can have been stored. */
  isKnown: boolean;
  /** It fails again until somebody changes something: the certificate is not accepted. */
  isFinal: boolean;
}

/** Before there is a connection: codes of Node and Bun. */
const NO_CONNECTION = ['ECONNREFUSED', 'ENOTFOUND', 'EAI_AGAIN', 'UND_ERR_CONNECT_TIMEOUT', 'ConnectionRefused'];
/** The same in Deno, TLS handshakes included: a part of the sentence. */
const NO_CONNECTION_IN_DENO = 'client error (Connect)';

/** Node's codes of TLS handshakes that fail. Other codes of OpenSSL come in the middle of a connection, too. */
const NO_HANDSHAKE = [
  'ERR_SSL_WRONG_VERSION_NUMBER', 'ERR_SSL_UNSUPPORTED_PROTOCOL', 'ERR_SSL_TLSV1_ALERT_PROTOCOL_VERSION',
  'ERR_SSL_SSLV3_ALERT_HANDSHAKE_FAILURE', 'ERR_SSL_SSL/TLS_ALERT_HANDSHAKE_FAILURE', 'ERR_SSL_TLSV1_UNRECOGNIZED_NAME',
];
/** Sentences of Node and Bun for a handshake that ends early, whose codes have other meanings as well. */
const HANDSHAKE_ENDED = ['disconnected before secure TLS connection was established', 'The TLS handshake failed'];

/** What is wrong with a certificate: a code of Node and Bun, or a part of Deno's sentence; and the words for people. */
const CERTIFICATE: readonly (readonly [clues: readonly string[], words: string])[] = [
  [['CERT_HAS_EXPIRED', 'certificate expired'], 'has expired: renew it, or set the clock of this machine right'],
  [['CERT_NOT_YET_VALID', 'certificate not valid yet'], 'is not valid yet: replace it, or set the clock of this machine right'],
  [['ERR_TLS_CERT_ALTNAME_INVALID', 'HOSTNAME_MISMATCH', 'certificate not valid for name'],
    'is for another name: give the name that it is for as the url, or get a certificate for this one'],
  [['UNABLE_TO_GET_ISSUER_CERT', 'UNABLE_TO_GET_ISSUER_CERT_LOCALLY', 'DEPTH_ZERO_SELF_SIGNED_CERT',
    'SELF_SIGNED_CERT_IN_CHAIN', 'UNABLE_TO_VERIFY_LEAF_SIGNATURE', 'CERT_UNTRUSTED', 'UnknownIssuer', 'CaUsedAsEndEntity'],
  'comes from no CA that this process trusts: name the file of the CA in NODE_EXTRA_CA_CERTS (in Deno: DENO_CERT)'],
  [['CERT_REVOKED', 'CERT_REJECTED', 'CERT_SIGNATURE_FAILURE', 'CERT_CHAIN_TOO_LONG', 'INVALID_CA', 'INVALID_PURPOSE',
    'PATH_LENGTH_EXCEEDED', 'invalid peer certificate'], 'is refused: replace it'],
];

/** `fetch` of `url` has failed with `error`; it hides the fault of the socket in `cause`. */
export function faultOf(error: unknown, url: string): Fault {
  const { message, code } = fields(error);
  const cause = fields(fields(error).cause);
  const codes = [code, cause.code].filter((found) => typeof found === 'string');
  const inDeno = String(cause.message).includes(NO_CONNECTION_IN_DENO) ? String(cause.message) : '';
  const isOneOf = (clues: readonly string[]) => clues.some((clue) => codes.includes(clue) || inDeno.includes(clue));
  const { origin } = new URL(url);
  const [, words] = CERTIFICATE.find(([clues]) => isOneOf(clues)) ?? [];
  if (words !== undefined) {
    return { why: { code: 'certificate', detail: `the certificate of ${origin} ${words}` }, isKnown: true, isFinal: true };
  }
  const found = [cause.code, cause.message, message, error].find((word) => typeof word === 'string' && word !== '');
  const said = String(found ?? 'the request failed');
  const hasEnded = HANDSHAKE_ENDED.some((part) => `${String(cause.message)} ${String(message)}`.includes(part));
  const isNoTls = hasEnded || isOneOf(NO_HANDSHAKE);
  const detail = isNoTls ? `the TLS handshake with ${origin} failed (${said}): is that address one for https?` : said;
  const isKnown = isNoTls || inDeno !== '' || isOneOf(NO_CONNECTION);
  return { why: { code: 'unreachable', detail: `no answer came: ${detail}` }, isKnown, isFinal: false };
}

function fields(value: unknown): { message?: unknown; code?: unknown; cause?: unknown } {
  return typeof value === 'object' && value !== null ? value : {};
}
