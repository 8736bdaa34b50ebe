// What the page reports about itself: shown and hidden, network gone and back, put aside and taken out again.

/** `hide`: the page may never be seen again. `suspend`: it goes to the back/forward cache. `offline`, and all others: the connection may be dead, or may work again. */
export type LifecycleSignal = 'visible' | 'online' | 'pageshow' | 'resume' | 'app' | 'offline' | 'hide' | 'suspend';

/** A source of these signals. */
export interface Lifecycle {
  /** Begins to listen; returns how to stop. */
  listen(on: (signal: LifecycleSignal) => void): () => void;
}

/** The signals of a browser's page; null outside a browser. It uses no unload event, because that would keep pages out of the back/forward cache. */
export function browserLifecycle(): Lifecycle | null {
  const page = globalThis as unknown as Window;
  if (typeof page.addEventListener !== 'function' || typeof page.document?.addEventListener !== 'function') return null;
  return {
    listen: (on) => {
      const { document } = page;
      const offs = ([
        [document, 'visibilitychange', () => on(document.visibilityState === 'visible' ? 'visible' : 'hide')],
        [document, 'resume', () => on('resume')],
        [page, 'online', () => on('online')],
        [page, 'offline', () => on('offline')],
        [page, 'pageshow', (event) => (event as PageTransitionEvent).persisted && on('pageshow')],
        [page, 'pagehide', (event) => on((event as PageTransitionEvent).persisted ? 'suspend' : 'hide')],
      ] as [EventTarget, string, (event: Event) => void][]).map(([target, name, act]) => {
        target.addEventListener(name, act);
        return () => target.removeEventListener(name, act);
      });
      return () => offs.forEach((off) => off());
    },
  };
}
