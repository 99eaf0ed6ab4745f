/// <reference types="node" />
import { ListenOptions, Server } from 'net';

export const STATE_JSON: 0x02;
export const STATE_PROTOBUF: 0x03;
export const STATE_BYTES: 0x04;
export const STATE_FD: 0x05;

/** A piece of state. */
export interface Frame {
  kind: number;
  payload: Buffer;
}

/** The state is being handed over, or is a newer generation's: do not tell the client that its request was done. */
export class HandedOver extends Error {}

export interface Keeper {
  save(): Iterable<Frame> | Promise<Iterable<Frame>>;
  resume?(frames: Frame[] | null): unknown;
  commit?(): unknown;
}

/** This generation's connection to aeternad's SRP socket, and the gate in front of the state. */
export class State {
  constructor(path?: string, options?: { patience?: number });
  listen(server: Server, which: string | number, fallback: ListenOptions): Promise<void>;
  load(apply?: (frames: Frame[]) => unknown): Promise<Frame[]>;
  keep(keeper: Keeper): void;
  request<T>(work: () => T | Promise<T>): Promise<T>;
  handedOver(): Promise<boolean>;
  isClosing(): boolean;
}

export function json(value: unknown): Frame;
export function bytes(payload: Uint8Array | string): Frame;

export function isManaged(): boolean;
export function generation(): number;
export function listeners(): { name: string; fd: number }[];
export function listener(which: string | number, fallback: ListenOptions): ListenOptions | { fd: number };

export function notify(message: string): boolean;
export function ready(): boolean;
export function stopping(): boolean;
export function reloading(): boolean;
export function status(text: string): boolean;
