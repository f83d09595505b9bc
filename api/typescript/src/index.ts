/** A typed client of a Mainstem gateway: start a run, follow it through every cut, abort it, decide for it. */

export { Mainstem, type MainstemOptions, type RequestOptions, type StartOptions } from "./client.js";
export { MainstemError } from "./errors.js";
export { isOver, RunState, type ContentPart, type Step } from "./fold.js";
export { follow, type ConnectionState, type FollowOptions, type RunEvent } from "./following.js";
export type * from "./openapi.js";
