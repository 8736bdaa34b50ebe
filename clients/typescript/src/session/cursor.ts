// Positions (rule R4), and other values as frames carry them.

import type { Cursor } from './types.js';

export function parseCursor(text: unknown): Cursor | null {
  const [, epoch, seq, tag] = /^([0-9a-z]{1,32})-(0|[1-9]\d{0,15})(?:-([0-9a-z]{1,16}))?$/.exec(textOf(text)) ?? [];
  return epoch && isWhole(+seq!) ? { epoch, seq: +seq!, tag: tag ?? null } : null;
}

export const formatCursor = ({ epoch, seq, tag }: Cursor): string => `${epoch}-${seq}${tag === null ? '' : `-${tag}`}`;

export const isWhole = (value: unknown): value is number => Number.isSafeInteger(value) && (value as number) >= 0;

export const wholeOr = (value: unknown, otherwise: number): number => (isWhole(value) ? value : otherwise);

export const textOf = (value: unknown): string => (typeof value === 'string' ? value : '');

export const textsOf = (value: unknown): string[] | null => (Array.isArray(value) ? value.filter((item) => typeof item === 'string') : null);
