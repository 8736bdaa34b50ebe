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
  if (!page.addEventListener || !page.document?.addEventListener) return null;
  return {
    listen: (on) => {
      const { document } = page;
      const offs = ([
        [document, 'visibilitychange', () => on(document.visibilityState === 'visible' ? 'visible' : 'hide')],
        [document, 'resume'],
        [page, 'online'],
        [page, 'offline'],
        [page, 'pageshow', ({ persisted }) => persisted && on('pageshow')],
        [page, 'pagehide', ({ persisted }) => on(persisted ? 'suspend' : 'hide')],
      ] as [EventTarget, string, ((event: PageTransitionEvent) => void)?][]).map(([target, name, given]) => {
        const act = (given ?? (() => on(name as LifecycleSignal))) as EventListener;
        target.addEventListener(name, act);
        return () => target.removeEventListener(name, act);
      });
      return () => offs.forEach((off) => off());
    },
  };
}
