"""The vocabulary of the counting task: ten categories of twenty everyday words.

The words are single, lower-case and plain, and no reader would file one under a second category of this
table: that is why there are no tomatoes (fruit or vegetable), no crickets (animal or sport) and no category
of birds or of colours beside the animals and the fruits.

Within a category the words stand roughly from the common to the rare. Training draws the common ones more
often, and never draws the last: `HELD_OUT` holds the words that a model trained on this task has not seen.
"""

CATEGORIES: dict[str, tuple[str, ...]] = {
    category: tuple(words.split())
    for category, words in {
        "fruits": """
            apple banana orange grape strawberry lemon pear peach cherry mango pineapple melon watermelon
            plum raspberry blueberry apricot papaya grapefruit nectarine""",
        "vegetables": """
            carrot potato onion cabbage broccoli spinach lettuce garlic celery cauliflower asparagus radish
            turnip beetroot leek kale artichoke parsnip shallot rutabaga""",
        "animals": """
            dog cat horse cow lion tiger elephant sheep pig rabbit monkey bear wolf fox goat giraffe zebra
            kangaroo donkey hippopotamus""",
        "vehicles": """
            car bus truck bicycle train airplane boat motorcycle taxi van ship helicopter tractor ambulance
            tram scooter ferry yacht canoe limousine""",
        "clothes": """
            shirt dress coat jacket hat skirt sweater trousers jeans shoe sock glove scarf blouse shorts
            vest hoodie cardigan pajamas tuxedo""",
        "instruments": """
            piano guitar violin drum flute trumpet saxophone clarinet cello harp trombone accordion banjo
            harmonica tuba oboe bassoon ukulele mandolin xylophone""",
        "furniture": """
            table chair bed sofa desk couch bookcase wardrobe stool bench cabinet armchair dresser cupboard
            bookshelf nightstand ottoman recliner sideboard futon""",
        "sports": """
            football basketball tennis baseball hockey golf volleyball rugby boxing swimming skiing
            wrestling gymnastics badminton rowing archery judo karate cycling softball""",
        "jobs": """
            teacher doctor nurse lawyer engineer farmer carpenter plumber electrician dentist pilot
            journalist architect accountant firefighter librarian surgeon mechanic barber veterinarian""",
        "buildings": """
            house school hospital church hotel library museum castle palace temple factory barn theater
            cathedral warehouse skyscraper cottage stadium mosque lighthouse""",
    }.items()
}
"""Category name (plural, as it stands in the prompt) to its words, common ones first."""

HELD_OUT: frozenset[str] = frozenset(words[-1] for words in CATEGORIES.values())
"""The last word of each category: one word in twenty, never shown in training."""
