// Checks the options of a client, so that a mistake is an error where it was made, and not one at each attempt.

import { baseOf } from './address.js';
import type { ClientOptions } from './options.js';
import { parseCursor } from './session/session.js';
import type { CursorStorage } from './storage.js';

const isFunction = (value: unknown): boolean => typeof value === 'function';
const isName = (value: unknown): boolean => typeof value === 'string' && /^[\w-][\w.-]{0,63}$/.test(value);
const isWithin = (value: unknown, low: number, high: number): boolean => typeof value === 'number' && value >= low && value <= high;

const RULES: [option: keyof ClientOptions, isRight: (value: unknown) => unknown, wanted: string][] = [
  ['url', (value) => typeof value === 'string' && value && baseOf(value), 'the base address of a gateway, such as https://events.example.com (a variable of the build may be unset)'],
  ['org', isName, 'a name of 1 to 64 of A-Z a-z 0-9 . _ -'],
  ['services', (value) => !value || (Array.isArray(value) && value.every(isName)), 'a list of names of 1 to 64 of A-Z a-z 0-9 . _ -'],
  ['getToken', isFunction, 'a function that returns a token'],
  ['cursor', (value) => value == null || parseCursor(value), 'a cursor'],
  ['tail', (value) => value == null || (isWithin(value, 0, 1_000) && Number.isInteger(value)), 'a whole number from 0 to 1,000'],
  ['slow', (value) => !value || ['catch_up', 'skip', 'latest'].includes(value as string), 'catch_up, skip or latest'],
  ['maxQueue', (value) => value === undefined || isWithin(value, 1, Infinity), 'a number of 1 or more'],
  ['storage', (value) => !value || (isFunction((value as CursorStorage).get) && isFunction((value as CursorStorage).set)), 'an object with get and set, such as localStorageCursor(key)'],
  ['health', (value) => value === undefined || isWithin(value, 0, 1), 'a number from 0 to 1'],
  ['transports', (value) => !value || (Array.isArray(value) && value.length > 0), 'a list of transports, such as [webSocket()]'],
  ['logger', (value) => value == null || typeof value === 'object', 'an object with info and warn, such as console'],
];

/** Throws a TypeError that names the first faulty option. */
export function check(options: ClientOptions): void {
  for (const [option, isRight, wanted] of RULES) {
    const value: unknown = options[option];
    if (!isRight(value)) throw new TypeError(`${option}: ${isFunction(value) ? 'a function' : (JSON.stringify(value) ?? typeof value)} is not ${wanted}`);
  }
}
