// @tidegate/publisher: publishes events to a Tidegate gateway.

export { createPublisher } from './publisher.js';
export type {
  Clock, EventMap, FieldError, Logger, Outcome, OwnCode, Publisher, PublisherOptions, PublishEvent, Refused, Stored, Unknown,
} from './types.js';
