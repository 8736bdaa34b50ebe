// A test compares this with spec/codes.json.

/** The codes of `error` frames after which a client does not come back (PROTOCOL.md, "Codes"). */
export const FINAL_CODES = ['unauthorized', 'forbidden', 'bad_frame', 'revoked', 'evicted', 'unsupported', 'too_large', 'bad_request'];
