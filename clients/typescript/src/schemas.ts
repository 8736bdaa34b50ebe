// Validators for the data of events. The client does not need this file unless the application uses it.

import type { AnyEvent, EventName, Events } from './events.js';

/** Returns the data to hand over, or throws. */
export type Validate = (event: AnyEvent) => unknown;

/** A validator as the Standard Schema specification, version 1, defines it (zod, valibot, arktype and others are such). */
export interface StandardSchema<Output = unknown> {
  readonly '~standard': {
    readonly version: 1;
    readonly vendor: string;
    /** Returns the value, or what is wrong with it. */
    readonly validate: (value: unknown) => SchemaResult<Output> | Promise<SchemaResult<Output>>;
    readonly types?: { readonly input: unknown; readonly output: Output } | undefined;
  };
}

/** The answer of a validator: a value, or what is wrong. */
export type SchemaResult<Output> =
  | { readonly value: Output; readonly issues?: undefined }
  | { readonly issues: ReadonlyArray<{ readonly message: string; readonly path?: ReadonlyArray<PropertyKey | { readonly key: PropertyKey }> | undefined }> };

/** Makes a `validate` of validators by event name. Events without one pass as they are. */
export function schemas(byName: { readonly [N in EventName]?: StandardSchema<Events[N]> }): Validate {
  return async ({ event, id, data }) => {
    const schema = (byName as Record<string, StandardSchema | undefined>)[event];
    if (!schema) return data;
    const result = await schema['~standard'].validate(data);
    if (!result.issues) return result.value;
    const issues = result.issues.map(({ message, path }) => {
      const where = (path ?? []).map((part) => String(typeof part === 'object' ? part.key : part)).join('.');
      return where ? `${where}: ${message}` : message;
    });
    throw new TypeError(`the data of ${event} (${id}) is not what its schema says: ${issues.join('; ')}`);
  };
}
