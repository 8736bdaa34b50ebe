// Checks the options of a client, so that a mistake is an error where it was made, and not one at each attempt.

import type { ClientOptions } from './options.js';

const isFunction = (value: unknown): boolean => typeof value === 'function';
const within = (value: unknown, low: number, high: number): boolean => typeof value === 'number' && value >= low && value <= high;

/** Throws a TypeError that names the first faulty option. The syntax of `url`, `org`, `services` and `cursor` is checked elsewhere (address.ts, client.ts). */
export function check(options: ClientOptions): void {
  const { services, getToken, tail, slow, maxQueue, storage, health, transports, logger } = options;
  const rules: { [N in keyof ClientOptions]?: [isRight: boolean, wanted: string] } = {
    getToken: [isFunction(getToken), 'a function that returns a token'],
    services: [!services || Array.isArray(services), 'a list of names'],
    tail: [tail == null || (within(tail, 0, 1_000) && Number.isInteger(tail)), 'a whole number from 0 to 1,000'],
    slow: [!slow || ['catch_up', 'skip', 'latest'].includes(slow), 'catch_up, skip or latest'],
    maxQueue: [maxQueue === undefined || within(maxQueue, 1, Infinity), 'a number of 1 or more'],
    storage: [!storage || (isFunction(storage.get) && isFunction(storage.set)), 'an object with get and set, such as localStorageCursor(key)'],
    health: [health === undefined || within(health, 0, 1), 'a number from 0 to 1'],
    transports: [!transports || (Array.isArray(transports) && transports.length > 0), 'a list of transports, such as [webSocket()]'],
    logger: [logger == null || typeof logger === 'object', 'an object with info and warn, such as console'],
  };
  for (const [name, [isRight, wanted]] of Object.entries(rules)) {
    const value = options[name as keyof ClientOptions];
    if (!isRight) throw new TypeError(`${name}: ${JSON.stringify(value) ?? typeof value} is not ${wanted}`);
  }
}
